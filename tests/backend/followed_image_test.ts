/**
 * The node `params` of a disk whose image is another one than the toolstack named: after a snapshot of a live disk, and
 * where the note of one has led from the image that was asked for.
 */

import { assertEquals } from "@std/assert";
import type { Disk, DiskRequest } from "../../lib/storage/disk.ts";
import { openDisk } from "../../lib/storage/open.ts";
import { Rig, until } from "./rig.ts";

/** A disk that can be told to have another image on top. */
class SnapshotDisk {
  #named: string | undefined;
  readonly #listeners = new Set<() => void>();
  readonly opened: DiskRequest[] = [];

  constructor(named?: string) {
    this.#named = named;
  }

  readonly open = async (request: DiskRequest): Promise<Disk> => {
    this.opened.push(request);
    const disk = await openDisk({ format: "null", target: "1M", readOnly: false, engine: "auto" });
    const named = (): string | undefined => this.#named;
    return {
      properties: disk.properties,
      description: disk.description,
      get named() {
        return named();
      },
      watchTrouble: (listener) => {
        this.#listeners.add(listener);
        return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
      },
      attachment: (lane) => disk.attachment(lane),
      [Symbol.asyncDispose]: () => Promise.resolve(disk[Symbol.asyncDispose]()),
    };
  };

  snapshot(named: string): void {
    this.#named = named;
    for (const listener of this.#listeners) listener();
  }
}

Deno.test("after a snapshot params names the overlay, the rings stay open, and a guest that connects again has it", async () => {
  await using rig = new Rig();
  const disk = new SnapshotDisk();
  rig.serve({}, { openDisk: disk.open });
  const device = rig.attach();
  const frontend = rig.frontend(device);
  await frontend.connect();
  disk.snapshot("qcow2:/srv/web.one.qcow2");
  await until("params has it", () => rig.backend(device, "params") === "qcow2:/srv/web.one.qcow2");
  assertEquals([rig.backend(device, "state"), rig.backend(device, "error"), rig.plane.queues.length], [
    "4",
    undefined,
    1,
  ]);
  await frontend.disconnect();
  await frontend.reconnect();
  assertEquals(disk.opened.map(({ target }) => target).slice(1), ["/srv/web.one.qcow2"]);
});

Deno.test("where a note has led from the image that was asked for, params is mended once it is open", async () => {
  await using rig = new Rig();
  const disk = new SnapshotDisk("qcow2:/srv/web.one.qcow2");
  rig.serve({}, { openDisk: disk.open });
  const device = rig.attach();
  await rig.frontend(device).connect();
  await until("params has it", () => rig.backend(device, "params") === "qcow2:/srv/web.one.qcow2");
  assertEquals([rig.backend(device, "state"), disk.opened.length], ["4", 1]);
});
