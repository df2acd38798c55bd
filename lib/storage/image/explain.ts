/**
 * What a failed call on an image's file means to an operator, and what to do about it.
 */

import { EACCES, EDQUOT, EMFILE, ENFILE, ENOENT, ENOMEM, ENOSPC, ENXIO, EPERM, EROFS, ESTALE } from "../../errno.ts";
import { XenblkError } from "../../errors.ts";
import { errnoOf } from "../errno.ts";

/** The reason, as the end of a sentence, and what to do. */
export interface Explanation {
  readonly why: string;
  readonly remedy?: string;
}

const OUT_OF_RESOURCE: ReadonlyMap<number, Required<Explanation>> = new Map([
  [EMFILE, {
    why: "this process has as many files open as it may",
    remedy: "raise the limit of open files (LimitNOFILE=, ulimit -n)",
  }],
  [ENFILE, {
    why: "this machine has as many files open as it may",
    remedy: "raise the limit (sysctl fs.file-max)",
  }],
  [ENOSPC, { why: "the file system is full", remedy: "free space on it, or enlarge it" }],
  [EDQUOT, { why: "the quota of its file system is used up", remedy: "raise the quota, or free space" }],
  [ENOMEM, { why: "there is not enough memory", remedy: "free memory, or raise the control group's limit" }],
]);

/** Of a negative errno: which resource is exhausted, and what to do; undefined for any other error. */
export function outOfResource(errno: number): Required<Explanation> | undefined {
  return OUT_OF_RESOURCE.get(-errno);
}

/** The error that a person sees when a file could not be opened, from what Deno or a system call threw. */
export function cannotOpen(path: string, readOnly: boolean, error: unknown): XenblkError {
  const { why, remedy } = explain(path, readOnly, error);
  return new XenblkError(`Cannot open image ${path}: ${why}`, {
    cause: error,
    ...(remedy === undefined ? {} : { remedy }),
  });
}

function explain(path: string, readOnly: boolean, error: unknown): Explanation {
  if (error instanceof Deno.errors.NotCapable) {
    const flags = readOnly ? `--allow-read=${path}` : `--allow-read=${path} --allow-write=${path}`;
    // Deno opens device nodes and the like only with every permission.
    const remedy = `run deno with ${error.message.includes("all access") ? "--allow-all" : flags}`;
    return { why: "Deno was started without the permission", remedy };
  }
  const errno = errnoOf(error);
  const exhausted = outOfResource(errno);
  if (exhausted !== undefined) return exhausted;
  switch (-errno) {
    case ENOENT:
      return {
        why: "there is no such file",
        remedy: readOnly ? "check the path" : `create it, for instance with \`truncate -s 1G ${path}\``,
      };
    case EACCES:
    case EPERM: {
      const right = readOnly ? "read it" : "write it, or attach it read-only";
      return { why: "permission denied", remedy: `let this user ${right}` };
    }
    case EROFS:
      return { why: "its file system is read-only", remedy: "attach it read-only" };
    case ESTALE:
      return { why: "its file server does not know it any more (ESTALE)", remedy: "mount the file system again" };
    case ENXIO:
      return { why: "there is no device behind it (ENXIO)", remedy: "connect the device, or name another image" };
  }
  const message = error instanceof Error ? error.message : String(error);
  return { why: message.replace(/ \(os error \d+\).*$/, "") };
}
