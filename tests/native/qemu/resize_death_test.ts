/**
 * A daemon that dies while its disk grows: what the guest wrote before is there, and the resize can be repeated.
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import type { VhostClient, VhostDevice } from "../../../lib/storage/vhost.ts";
import { EngineRig, tick } from "./engine_rig.ts";
import { command, DaemonRig, daemonTest, runs } from "./rig.ts";

const CLUSTER_BYTES = 64 << 10;

/** A client that does something before it connects again for the first time, and then tries until its signal ends it. */
function persistent(real: VhostClient, before: () => Promise<unknown>): VhostClient {
  let isFirst = true;
  return {
    async connect(options): Promise<VhostDevice> {
      const device = await real.connect(options);
      const reconnect = device.reconnect.bind(device);
      device.reconnect = async (socket, signal): Promise<void> => {
        const persists = isFirst;
        isFirst = false;
        if (persists) await before();
        for (;; await tick()) {
          try {
            return await reconnect(socket, signal);
          } catch (error) {
            if (!persists || signal?.aborted) throw error;
          }
        }
      };
      return device;
    },
  };
}

daemonTest(
  "a daemon dies while it exports a grown disk anew: the next one serves no request before the replay",
  async () => {
    await using rig: EngineRig = new EngineRig(undefined, (real) => persistent(real, () => rig.killDaemon()));
    const image = `${rig.folder}/one.qcow2`;
    await command("qemu-img", "create", "-q", "-f", "qcow2", image, "64M");
    await using disk = await rig.open(`qcow2:${image}`);
    const written: number[] = [];
    const grown = await outcomeOf(disk.disk.grow!(128 << 20), async () => {
      const at = written.length * CLUSTER_BYTES;
      await disk.write(at, new Uint8Array(CLUSTER_BYTES).fill(7));
      written.push(at);
    });
    for (const at of written) {
      const found = await disk.read(at, CLUSTER_BYTES);
      assert(found.every((byte) => byte === 7), `the write at ${at} was answered, and is lost`);
    }
    assertMatch(`${grown}`, /Cannot export image qcow2:.* anew: the storage daemon of domain 5 .* died/);
    await outcomeOf(disk.disk.grow!(128 << 20), () => disk.read(0, 512));
    assertEquals(disk.disk.properties.sectors, 262_144);
    await disk.write(127 << 20, new Uint8Array(1 << 20).fill(8));
  },
);

/** Its error, or undefined. The disk's channel goes on meanwhile. */
async function outcomeOf(call: Promise<void>, turn: () => Promise<unknown>): Promise<unknown> {
  const ended = call.then(() => ({ error: undefined }), (error) => ({ error }));
  let outcome: { readonly error: unknown } | undefined;
  void ended.then((how) => outcome = how);
  for (; outcome === undefined; await tick()) await turn();
  return outcome.error;
}

daemonTest("a resize in the moment between two daemons fails at once, and leaves the next one alone", async () => {
  await using rig = new DaemonRig();
  await using disk = await rig.daemons().open(rig.request(await rig.image("one.qcow2", "64M")));
  const { pid } = rig.record().process;
  Deno.kill(pid, "SIGKILL");
  await disk.lost;
  await disk.recover(async () => {
    assert(runs(rig.record().process.pid));
    const error = await assertRejects(() => disk.grow!(96 << 20), XenblkError);
    assertMatch(
      error.line,
      /^Cannot reach the storage daemon of domain 5 \(process \d+\): it has ended; repeat this once/,
    );
    assertEquals(error.line.includes(`process ${pid}`), true);
  });
  await disk.grow!(96 << 20);
});
