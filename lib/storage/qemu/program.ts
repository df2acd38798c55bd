/**
 * Finds qemu-storage-daemon on this host, and asks it for its version.
 */

import { XenblkError } from "../../errors.ts";
import { lookWithin } from "../../path_lookup.ts";
import { printable } from "../../log.ts";
import { runWithin } from "./command.ts";

/** The environment variable that names the program. */
export const PROGRAM_VARIABLE = "XENBLK_QEMU_STORAGE_DAEMON";

const NAME = "qemu-storage-daemon";
/** Debian moved the program in 8.0+dfsg-5. */
const PACKAGE = "qemu-utils, in Debian 12 qemu-system-common";
/** Where it is looked for after PATH: a service's PATH may be short. */
const USUAL = ["/usr/bin", "/usr/local/bin", "/usr/libexec", "/usr/lib/qemu"];
/** How long `--version` may take. */
const VERSION_MS = 10_000;
/** QEMU 7.0 or later: vhost-user-blk exports of earlier ones lack discard, or several virtqueues. */
const OLDEST_MAJOR = 7;

/** The program, as it is installed. */
export interface DaemonProgram {
  /** Absolute. */
  readonly path: string;
  /** `7.2.22`. */
  readonly version: string;
}

/**
 * Finds the program; `variable` reads one of the environment's variables. Rejects with {@linkcode XenblkError} that says
 * where it was looked for and which package has it, or that it does not run.
 */
export async function findProgram(variable: (name: string) => string | undefined): Promise<DaemonProgram> {
  const named = variable(PROGRAM_VARIABLE);
  if (named !== undefined) {
    if (await isFile(named)) return await examined(named);
    throw new XenblkError(`Cannot find ${NAME}: ${PROGRAM_VARIABLE} names ${named}, which is no file`, {
      remedy: `set it to the program's path, or unset it`,
    });
  }
  const directories = new Set([
    ...(variable("PATH") ?? "").split(":").filter((path) => path.startsWith("/")),
    ...USUAL,
  ]);
  for (const directory of directories) {
    const path = `${directory}/${NAME}`;
    if (await isFile(path)) return await examined(path);
  }
  throw new XenblkError(`Cannot find ${NAME} in ${[...directories].join(", ")}`, {
    remedy: `install it (Debian package ${PACKAGE}), or name it with ${PROGRAM_VARIABLE}`,
  });
}

async function isFile(path: string): Promise<boolean> {
  try {
    return (await lookWithin(path, () => Deno.stat(path))).isFile;
  } catch (error) {
    if (error instanceof XenblkError) throw error;
    return false;
  }
}

async function examined(path: string): Promise<DaemonProgram> {
  const { success, output, reason } = await runWithin(path, ["--version"], VERSION_MS);
  const version = /version (\d+(?:\.\d+)+)/.exec(output)?.[1];
  if (!success || version === undefined) {
    const why = success ? `it answers ${printable(output.slice(0, 80))}` : reason;
    throw new XenblkError(`Cannot use ${path}: ${why}`, {
      remedy: `try \`${path} --version\`; reinstall it (${PACKAGE}), or name another with ${PROGRAM_VARIABLE}`,
    });
  }
  if (Number.parseInt(version) < OLDEST_MAJOR) {
    throw new XenblkError(
      `Cannot use ${path}: it is version ${version}, and ${OLDEST_MAJOR}.0 is the oldest that works`,
      {
        remedy: `install a later QEMU, or name it with ${PROGRAM_VARIABLE}`,
      },
    );
  }
  return { path, version };
}
