/**
 * What `xenblk install` puts where: the files of contrib/, in which the command's path is filled in, a launcher that runs
 * this copy of xenblk, and completion.
 */

import { dirname } from "./paths.ts";
import { errorText, XenblkError } from "../../errors.ts";
import { shellWord } from "../../shell_word.ts";

/** One file to install. */
export interface PlannedFile {
  /** Absolute, as the installed system sees it. */
  readonly path: string;
  readonly text: string;
  readonly mode: number;
}

/** A copy of xenblk and what runs it, as the launcher needs them. Paths are absolute. */
export interface Copy {
  /** The folder with contrib/ and cli.ts, or cli.js in a package; with a slash at its end. */
  readonly root: string;
  /** TypeScript from a checkout, or JavaScript from a package. */
  readonly isCheckout: boolean;
  /** Deno's program. */
  readonly deno: string;
  /** Deno's cache, with the packages of a checkout. */
  readonly denoDirectory: string;
}

/** Where the units of contrib/ expect the command. */
const PACKAGED_COMMAND = "/usr/bin/xenblk";
const EXECUTABLE = 0o755;
const PLAIN = 0o644;

/** Sources below contrib/, and their places. */
const PLACES: readonly (readonly [source: string, place: string, mode: number])[] = [
  ["systemd/xenblk.service", "/etc/systemd/system/xenblk.service", PLAIN],
  ["systemd/xenblk@.service", "/etc/systemd/system/xenblk@.service", PLAIN],
  ["systemd/xenblk.tmpfiles", "/etc/tmpfiles.d/xenblk.conf", PLAIN],
  ["systemd/xenblk.sysusers", "/etc/sysusers.d/xenblk.conf", PLAIN],
  ["udev/70-xenblk.rules", "/etc/udev/rules.d/70-xenblk.rules", PLAIN],
  ["block-xenblk", "/etc/xen/scripts/block-xenblk", EXECUTABLE],
];

/** The copy that runs now. Throws {@linkcode XenblkError} if it is not a folder of this machine. */
export function runningCopy(environment: (name: string) => string | undefined): Copy {
  const module = new URL(import.meta.url);
  if (module.protocol !== "file:") {
    throw new XenblkError(
      `Cannot install from ${module.origin}: this copy of xenblk is not in a folder of this machine`,
      {
        remedy: "run it from a checkout or from the npm package",
      },
    );
  }
  const cache = environment("DENO_DIR") ??
    (environment("XDG_CACHE_HOME") ?? `${environment("HOME") ?? "/root"}/.cache`) + "/deno";
  return {
    root: decodeURIComponent(new URL("../../../", module).pathname),
    isCheckout: module.pathname.endsWith(".ts"),
    deno: Deno.execPath(),
    denoDirectory: cache,
  };
}

/** All files, for a command below `prefix`. Throws {@linkcode XenblkError} if a source cannot be read. */
export function planFiles(copy: Copy, prefix: string): PlannedFile[] {
  const command = `${prefix}/bin/xenblk`;
  const completions = `${prefix}/share`;
  return [
    { path: command, text: launcher(copy), mode: EXECUTABLE },
    ...PLACES.map(([source, path, mode]) => {
      const text = readSource(`${copy.root}contrib/${source}`);
      return { path, mode, text: text.replaceAll(`ExecStart=${PACKAGED_COMMAND} `, `ExecStart=${command} `) };
    }),
    // They ask the command, so they stay true when the copy changes.
    {
      path: `${completions}/bash-completion/completions/xenblk`,
      text: `eval "$(${shellWord(command)} completion bash)"\n`,
      mode: PLAIN,
    },
    {
      path: `${completions}/fish/vendor_completions.d/xenblk.fish`,
      text: `${shellWord(command)} completion fish | source\n`,
      mode: PLAIN,
    },
  ];
}

/**
 * V8 inlines more into the loop that serves rings, and a start fits into its young generation without a collection. The
 * launchers of the packages say the same.
 */
export const V8_FLAGS = "--v8-flags=--max-inlined-bytecode-size-cumulative=3000,--min-semi-space-size=4";

/** It becomes the command, so that a service manager's main process is the one that serves. */
function launcher({ root, isCheckout, deno, denoDirectory }: Copy): string {
  const flags = isCheckout
    ? ["--cached-only", "--config", `${root}deno.json`]
    : ["--no-lock", "--no-remote", "--no-config", "--node-modules-dir=manual"];
  const words = [deno, "run", "-A", "--quiet", V8_FLAGS, ...flags, `${root}cli.${isCheckout ? "ts" : "js"}`];
  return `#!/bin/sh
# Runs xenblk from ${dirname(root)}. Written by \`xenblk install\`.
DENO_DIR=\${DENO_DIR:-${shellWord(denoDirectory)}}
DENO_NO_UPDATE_CHECK=1
export DENO_DIR DENO_NO_UPDATE_CHECK
exec ${words.map(shellWord).join(" ")} "$@"
`;
}

function readSource(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch (error) {
    throw new XenblkError(`Cannot install ${path}: ${errorText(error)}`, {
      remedy: "use a complete checkout, or install the npm package again",
      cause: error,
    });
  }
}
