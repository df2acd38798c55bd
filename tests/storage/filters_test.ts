/**
 * The filters that tests stack in front of a channel: the recorder writes down starts and ends in order; the faults
 * fail and hold back exactly what the plan says.
 */

import { EIO } from "../../lib/errno.ts";
import { assertEquals } from "@std/assert";
import { openDisk } from "../../lib/storage/open.ts";
import { FaultChannel, type FaultPlan } from "../../lib/storage/engine/fault.ts";
import { type RecordedEvent, RecordingChannel } from "../../lib/storage/engine/record.ts";
import { type IoChannel, type IoVectors } from "../../lib/storage/disk.ts";
import { ChannelRig, simulatedPlatform } from "./rig.ts";

async function rigWith(wrap: (channel: IoChannel, vectors: IoVectors) => IoChannel): Promise<ChannelRig> {
  const disk = await openDisk({ format: "memory", target: "1M", readOnly: false, engine: "auto" });
  return new ChannelRig(await disk.attachment(0), { platform: simulatedPlatform(), wrap, depth: 8 });
}

const line = ({ event, operation, tag, offsetBytes, lengthBytes, result }: RecordedEvent): string =>
  `${event} ${operation} ${tag} ${offsetBytes}+${lengthBytes} ${result}`;

Deno.test("the recorder writes down what is asked for and what is reaped, in order", async () => {
  const events: RecordedEvent[] = [];
  using rig = await rigWith((channel, vectors) => new RecordingChannel(channel, vectors, events));
  rig.write(2, 4096, [512, 1024]);
  rig.finish();
  rig.channel.flush(3);
  rig.read(1, 1 << 20, [512]);
  rig.finish();
  assertEquals(events.map(line), [
    "start write 2 4096+1536 0",
    "end write 2 4096+1536 0",
    "start flush 3 0+0 0",
    "start read 1 1048576+512 0",
    "end flush 3 0+0 0",
    `end read 1 1048576+512 ${-EIO}`,
  ]);
});

Deno.test("a filter is due when the channel behind it is", async () => {
  const timed = (channel: IoChannel): IoChannel => Object.assign(channel, { dueMs: 7 });
  using recorded = await rigWith((channel, vectors) => new RecordingChannel(timed(channel), vectors, []));
  using faulty = await rigWith((channel, vectors) => new FaultChannel(timed(channel), vectors, () => undefined));
  using untimed = await rigWith((channel, vectors) => new RecordingChannel(channel, vectors, []));
  assertEquals([recorded, faulty, untimed].map(({ channel }) => channel.dueMs), [7, 7, Infinity]);
});

Deno.test("a planned error keeps the operation from the engine and leaves others alone", async () => {
  const plan: FaultPlan = ({ operation, offsetBytes }) =>
    operation === "write" && offsetBytes === 4096 ? { errno: -EIO } : undefined;
  using rig = await rigWith((channel, vectors) => new FaultChannel(channel, vectors, plan));
  rig.buffer(0).fill(9);
  rig.write(0, 4096, [512]);
  rig.write(1, 8192, [512]);
  assertEquals(rig.channel.inFlight, 2);
  assertEquals(rig.channel.reap(), 0);
  assertEquals(rig.finish(), new Map([[0, -EIO], [1, 0]]));
  assertEquals(rig.readNow(4096, 512), 0);
  assertEquals(rig.buffer(0)[0], 0);
});

Deno.test("a held result comes so many reaps later, after what overtook it", async () => {
  const plan: FaultPlan = ({ tag }) =>
    tag === 0 ? { heldReaps: 2 } : tag === 1 ? { errno: -EIO, heldReaps: 1 } : undefined;
  using rig = await rigWith((channel, vectors) => new FaultChannel(channel, vectors, plan));
  for (const tag of [0, 1, 2]) rig.write(tag, 0, [512]);
  rig.channel.submit();
  const reaped = [0, 1, 2, 3].map(() => [...rig.channel.tags.subarray(0, rig.channel.reap())]);
  assertEquals(reaped, [[2], [1], [0], []]);
  assertEquals(rig.channel.inFlight, 0);
});
