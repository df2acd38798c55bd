/**
 * How the process of a disk in TypeScript is run: its memory, what it may reach, and what happens when it is in trouble.
 */

/** What happens to requests while a plugin has no process: they wait for its next one, or fail with an I/O error. */
export type PluginTrouble = "hold" | "fail";

/** How the processes of plugins are run. */
export interface PluginSettings {
  /** Most bytes of JavaScript objects, and of other data, in the process; one that needs more ends, and is started again. */
  readonly memoryBytes: number;
  /**
   * What the process may reach beside its module's directory, as Deno's permissions: `net=host:port`, `read=/path`,
   * `write=/path`, `env=NAME`, `sys=hostname`, `import=host`.
   */
  readonly permissions: readonly string[];
  /** How long one request may take, in milliseconds, before the process counts as hanging. */
  readonly requestTimeoutMs: number;

  /** What happens to requests when the process has crashed or hung. */
  readonly onTrouble: PluginTrouble;
}

/** 256 MiB, no permission beyond the module's directory, half a minute for a request, which then waits. */
export const DEFAULT_PLUGIN_SETTINGS: PluginSettings = {
  memoryBytes: 256 * 2 ** 20,
  permissions: [],
  requestTimeoutMs: 30_000,
  onTrouble: "hold",
};

/** The permissions in words, as the end of a sentence. */
export const PERMISSION_FORM = "net, net=HOST:PORT, read=/PATH, write=/PATH, env=NAME, sys=NAME or import=HOST";

/** Without a value: everything of that kind. `run` and `ffi` would undo all others. A comma is part of a path. */
const PERMISSION = /^(?:(?:net|env|sys|import)(?:=[^\s,]+)?|(?:read|write)(?:=\/.*)?)$/;

/** One permission, as Deno's option `--allow-...` takes it; undefined if it is none that a plugin can get. */
export function readPermission(text: string): string | undefined {
  return PERMISSION.test(text) ? text : undefined;
}
