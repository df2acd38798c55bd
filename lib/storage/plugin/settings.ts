/**
 * How the process of a disk in TypeScript is run: its memory, what it may reach, and what happens when it is in trouble.
 */

/** What happens to the requests of a plugin that hangs: they wait for its next process, or fail with an I/O error. */
export type PluginTrouble = "hold" | "fail";

/** How the processes of plugins are run. */
export interface PluginSettings {
  /** Most bytes of JavaScript objects in the process; a plugin that needs more is ended and started again. */
  readonly memoryBytes: number;
  /**
   * What the process may reach beside its module's directory, as Deno's permissions: `net=host:port`, `read=/path`,
   * `write=/path`, `env=NAME`, `sys=hostname`, `import=host`.
   */
  readonly permissions: readonly string[];
  /** How long one request may take, in milliseconds, before the process counts as hanging. */
  readonly requestTimeoutMs: number;
  /** What happens to requests when the process hangs. */
  readonly onTrouble: PluginTrouble;
}

/** 256 MiB, no permission beyond the module's directory, half a minute for a request, which then waits. */
export const DEFAULT_PLUGIN_SETTINGS: PluginSettings = {
  memoryBytes: 256 * 2 ** 20,
  permissions: [],
  requestTimeoutMs: 30_000,
  onTrouble: "hold",
};
