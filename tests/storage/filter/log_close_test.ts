/**
 * Closing a channel of the filter `log`: one that refuses because operations are in flight can be closed later.
 */

import { assertEquals, assertThrows } from "@std/assert";
import type { DiskAttachment } from "../../../lib/storage/disk.ts";
import { openChannel } from "../../../lib/storage/filter/log.ts";
import { DiskModules } from "../../../lib/storage/channel.ts";
import { openDisk } from "../../../lib/storage/open.ts";
import { createTraceMemory, TraceProducer } from "../../../lib/trace/rings.ts";
import { simulatedPlatform } from "../rig.ts";

Deno.test("a channel behind log that could not be closed is closed, with the disk's, when it can be", async () => {
  const platform = simulatedPlatform();
  using token = platform.createWakeToken();
  using parker = platform.openParker(token);
  const modules = new DiskModules({ platform, parker, token });
  await using disk = await openDisk({ format: "memory", target: "1M", readOnly: false, engine: "auto" });
  const inner = await disk.attachment(0);
  await modules.load(inner);
  const memory = createTraceMemory();
  const vectors = { addresses: new Float64Array(1), lengths: new Uint32Array(1) };
  const attachment = { inner, state: { memory, startMs: 0 } } as unknown as DiskAttachment;
  let closed = 0;
  const channel = openChannel(attachment, { depth: 1, vectors, memory: platform.memory }, {
    platform,
    parker,
    token,
    openChannel: (named, options) => {
      const channel = modules.openChannel(named, options);
      const dispose = channel[Symbol.dispose].bind(channel);
      return Object.assign(channel, { [Symbol.dispose]: () => void (dispose(), closed++) });
    },
  });
  channel.flush(0);
  assertThrows(() => channel[Symbol.dispose](), Error, "in flight");
  using second = TraceProducer.open(memory);
  assertEquals(second?.ring, 1, "the channel still has its part of the trace");
  channel.submit();
  assertEquals(channel.reap(), 1);
  channel[Symbol.dispose]();
  using third = TraceProducer.open(memory);
  assertEquals([closed, third?.ring], [1, 0]);
});
