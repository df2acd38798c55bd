/**
 * Starts the processes of disks in TypeScript on this machine.
 */

import type { PluginClient, PluginOptions, PluginProcess } from "../../lib/storage/plugin/types.ts";
import type { PluginPatience } from "./process.ts";

/** A start takes 0.3 s on an idle machine; the plugin may have to reach a server first. */
const PATIENCE: PluginPatience = { startMs: 20_000, pauseMs: 10_000, closeMs: 5000 };

/** Starts Deno, with descriptors of shared memory. */
export class NativePluginClient implements PluginClient {
  readonly #patience: PluginPatience;

  constructor(patience: Partial<PluginPatience> = {}) {
    this.#patience = { ...PATIENCE, ...patience };
  }

  /** What runs it is loaded with the first such disk. */
  async start(options: PluginOptions): Promise<PluginProcess> {
    const { NativePluginProcess } = await import("./process.ts");
    return await NativePluginProcess.open(options, this.#patience);
  }
}
