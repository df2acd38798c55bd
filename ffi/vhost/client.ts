/**
 * The vhost-user-blk client of this machine: what connects storage to the exports of a storage daemon.
 */

import type { VhostClient, VhostDevice, VhostOptions } from "../../lib/storage/vhost.ts";
import type { VhostPatience } from "./session.ts";

/** A daemon that works answers within a millisecond; one whose machine is busy may take longer. */
const PATIENCE: VhostPatience = { answerMs: 5000, busyMs: 5000 };

/** Connects by Unix sockets and memfds. */
export class NativeVhostClient implements VhostClient {
  readonly #patience: VhostPatience;

  constructor(patience: Partial<VhostPatience> = {}) {
    this.#patience = { ...PATIENCE, ...patience };
  }

  /** The protocol is loaded with the first disk that a daemon serves. */
  async connect(options: VhostOptions): Promise<VhostDevice> {
    const { NativeVhostDevice } = await import("./device.ts");
    return await NativeVhostDevice.open(options, this.#patience);
  }
}
