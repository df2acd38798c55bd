/**
 * The machine as the checks of `doctor` read it: files, directories, free space, permissions and what programs print. A
 * test brings an invented one.
 */

import { statfsSync } from "node:fs";
import { journalDirectory } from "../../journal_directory.ts";
import { endsWithin } from "../../within.ts";

/** A directory. */
export interface Directory {
  /** The names of its entries. */
  readonly entries: readonly string[];
  /** Its permission bits. */
  readonly mode: number;
  /** The user that owns it. */
  readonly owner: number;
}

/** A file. */
export interface FileFacts {
  /** Its permission bits. */
  readonly mode: number;
  /** The user that owns it. */
  readonly owner: number;
}

/** A file system's space. */
export interface Space {
  /** What a user without privileges may take. */
  readonly freeBytes: number;
  /** Infinity where files are not limited. */
  readonly freeFiles: number;
}

/** The machine, as far as the checks read it. */
export interface Machine {
  /** The text of a file, or undefined if it is missing or not readable. */
  readText(path: string): string | undefined;
  /** Deno was started without the permission to read the path. */
  isHidden(path: string): boolean;
  /** Whether a file or device can be opened for reading and writing; `hidden`: Deno lacks the permission for that. */
  access(path: string): "usable" | "denied" | "absent" | "hidden";
  /** The directory at a path; `other` if something else is there, `hidden` if Deno lacks the permission to look. */
  directory(path: string): Directory | "absent" | "denied" | "other" | "hidden";
  /** A file at a path; the others are as for a directory. */
  file(path: string): FileFacts | "absent" | "denied" | "other" | "hidden";
  /** The last so many bytes of a file as text; undefined if it is missing or not readable. */
  tail(path: string, bytes: number): string | undefined;
  /** The space of the file system that holds an existing path. */
  space(path: string): Space | "unknown" | "hidden";
  /** What a program prints, whatever its exit status; `late` if it has not ended within the time. */
  run(
    command: readonly [string, ...string[]],
    timeoutMs: number,
  ): Promise<{ readonly stdout: string } | "absent" | "late" | "hidden">;
  /** The user of this process; undefined if it is not known. */
  user(): number | undefined;
  environment(name: string): string | undefined;
  permission(name: "read" | "write" | "ffi" | "env"): "granted" | "partial" | "denied" | "prompt";
}

/** This machine. */
export const THIS_MACHINE: Machine = {
  readText(path): string | undefined {
    try {
      return Deno.readTextFileSync(path).trim();
    } catch {
      return undefined;
    }
  },
  isHidden(path): boolean {
    try {
      Deno.statSync(path);
      return false;
    } catch (error) {
      return error instanceof Deno.errors.NotCapable;
    }
  },
  access(path): "usable" | "denied" | "absent" | "hidden" {
    try {
      if (Deno.statSync(path).isSocket) return "usable";
      Deno.openSync(path, { read: true, write: true }).close();
      return "usable";
    } catch (error) {
      return whyNot(error);
    }
  },
  directory(path): Directory | "absent" | "denied" | "other" | "hidden" {
    try {
      const { isDirectory, mode, uid } = Deno.statSync(path);
      if (!isDirectory) return "other";
      return { entries: [...Deno.readDirSync(path)].map(({ name }) => name), mode: mode ?? 0, owner: uid ?? 0 };
    } catch (error) {
      return whyNot(error);
    }
  },
  file(path): FileFacts | "absent" | "denied" | "other" | "hidden" {
    try {
      const { isFile, mode, uid } = Deno.statSync(path);
      if (!isFile) return "other";
      Deno.openSync(path).close();
      return { mode: mode ?? 0, owner: uid ?? 0 };
    } catch (error) {
      return whyNot(error);
    }
  },
  tail(path, bytes): string | undefined {
    try {
      using file = Deno.openSync(path);
      file.seekSync(Math.max(0, file.statSync().size - bytes), Deno.SeekMode.Start);
      const buffer = new Uint8Array(bytes);
      return new TextDecoder().decode(buffer.subarray(0, file.readSync(buffer) ?? 0));
    } catch {
      return undefined;
    }
  },
  space(path): Space | "unknown" | "hidden" {
    try {
      const { bavail, bsize, files, ffree } = statfsSync(path);
      return { freeBytes: bavail * bsize, freeFiles: files === 0 ? Infinity : ffree };
    } catch (error) {
      return error instanceof Deno.errors.NotCapable ? "hidden" : "unknown";
    }
  },
  run,
  user(): number | undefined {
    try {
      return Deno.statSync("/proc/self").uid ?? undefined;
    } catch {
      return undefined;
    }
  },
  environment(name): string | undefined {
    try {
      return Deno.env.get(name);
    } catch {
      return undefined;
    }
  },
  permission(name): "granted" | "partial" | "denied" | "prompt" {
    const status = Deno.permissions.querySync({ name });
    // What is limited to paths is not granted as a whole; serving needs the directory of journals in any case.
    const path = journalDirectory((variable) => THIS_MACHINE.environment(variable));
    const ofPath = name === "read" || name === "write" ? Deno.permissions.querySync({ name, path }) : status;
    if (status.state !== "granted" && ofPath.state === "granted") return "partial";
    return status.state === "granted" && status.partial ? "partial" : status.state;
  },
};

/** How long a program that was killed may take to end. */
const KILL_MS = 1_000;

async function run(
  [program, ...args]: readonly [string, ...string[]],
  timeoutMs: number,
): Promise<{ readonly stdout: string } | "absent" | "late" | "hidden"> {
  try {
    const child = new Deno.Command(program, { args, stdin: "null", stdout: "piped", stderr: "null" }).spawn();
    const output = child.output();
    if (await endsWithin(output, timeoutMs)) return { stdout: new TextDecoder().decode((await output).stdout) };
    child.kill("SIGKILL");
    await endsWithin(output, KILL_MS);
    return "late";
  } catch (error) {
    return error instanceof Deno.errors.NotCapable ? "hidden" : "absent";
  }
}

function whyNot(error: unknown): "absent" | "denied" | "hidden" {
  if (error instanceof Deno.errors.NotCapable) return "hidden";
  return error instanceof Deno.errors.NotFound ? "absent" : "denied";
}
