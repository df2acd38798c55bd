/**
 * A storage daemon that breaks the rules, in its messages or in the memory that it shares with us: its own disk ends with
 * an error that says what it did, and nothing else happens.
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import type { VhostAttachment } from "../../../ffi/vhost/attachment.ts";
import { raiseEventfd } from "../../../ffi/linux/eventfd.ts";
import { viewOf } from "../../../ffi/linux/memory.ts";
import { FEATURE, FEATURES, WCE_AT } from "../../../ffi/vhost/config.ts";
import { PARTITION_BYTES, QUEUE_SIZE, REQUESTS_AT, STATUS_AT, USED_AT } from "../../../ffi/vhost/layout.ts";
import { quads } from "../../../ffi/vhost/messages.ts";
import { EIO, EOPNOTSUPP } from "../../../lib/errno.ts";
import { XenblkError } from "../../../lib/errors.ts";
import type { VhostDevice } from "../../../lib/storage/vhost.ts";
import { type ChannelRig, Folder } from "../../storage/rig.ts";
import { VhostRig } from "./daemon.ts";
import { type Answers, configReply, FakeServer, message, plainConfig } from "./fake_server.ts";

/** Connects to a server that answers like this, and hands over what came of it. */
async function withServer(
  answers: Answers,
  body: (device: VhostDevice, rig: VhostRig, server: FakeServer) => Promise<void>,
): Promise<void> {
  using folder = new Folder();
  await using server = new FakeServer(`${folder.path}/fake.sock`, answers);
  using rig = new VhostRig({ patience: { answerMs: 300, busyMs: 0 } });
  await using device = await rig.connect(server.socket);
  await body(device, rig, server);
}

const config = (change: (view: DataView) => void): Answers => ({ getConfig: () => configReply(plainConfig(change)) });

const REFUSALS: readonly (readonly [what: string, answers: Answers, reason: string])[] = [
  ["no answer", { getFeatures: () => "nothing" }, "it has not answered getFeatures for 0.3 s"],
  ["an end at once", { getFeatures: () => "close" }, "it closed the connection"],
  ["an end later", { setFeatures: () => "close" }, "it closed the connection"],
  [
    "features of three bytes",
    { getFeatures: () => ({ payload: new Uint8Array(3) }) },
    "a number of 3 bytes in place of 8",
  ],
  [
    "a legacy device",
    { getFeatures: () => ({ payload: quads(FEATURES & ~FEATURE.version1) }) },
    "it lacks the features version1",
  ],
  ["no config space", { getProtocolFeatures: () => ({ payload: quads(9n) }) }, "it lacks the features config"],
  ["too few virtqueues", { getQueueNum: () => ({ payload: quads(1n) }) }, "it has 1 virtqueues, and 2 are needed"],
  ["a refusal", { setMemTable: () => ({ payload: quads(1n) }) }, "it refused setMemTable (1)"],
  [
    "the reply to another request",
    { getConfig: () => ({ bytes: message(1, quads(1n)) }) },
    "it does not follow the protocol: a reply to request 1 in place of 24",
  ],
  [
    "a request in place of a reply",
    { getConfig: () => ({ bytes: message(24, quads(1n), 1) }) },
    "it does not follow the protocol: a message with flags 0x1 in place of a reply",
  ],
  [
    "a reply of 4 GiB",
    { getConfig: () => ({ bytes: new Uint8Array(Uint32Array.of(24, 5, 0xFFFF_FFFF).buffer) }) },
    "it does not follow the protocol: a reply of 4294967295 bytes",
  ],
  [
    "a short config space",
    { getConfig: () => configReply(new Uint8Array(8)) },
    "it answered getConfig with a config space of 8 bytes, not 60",
  ],
  ["an empty config", { getConfig: () => ({ payload: new Uint8Array(0) }) }, "a config space of 0 bytes, not 60"],
  ["no sectors", config((view) => view.setBigUint64(0, 0n, true)), "a capacity of 0 sectors"],
  [
    "more sectors than there are",
    config((view) => view.setBigUint64(0, 1n << 60n, true)),
    "a capacity of 1152921504606846976 sectors",
  ],
  ["a block of 520 bytes", config((view) => view.setUint32(20, 520, true)), "a block size of 520 bytes"],
  ["a block of 0 bytes", config((view) => view.setUint32(20, 0, true)), "a block size of 0 bytes"],
  ["segments of 100 bytes", config((view) => view.setUint32(8, 100, true)), "segments of at most 100 bytes"],
];

for (const [what, answers, reason] of REFUSALS) {
  Deno.test(`vhost: connecting fails, with the reason, for ${what}`, async () => {
    const error = await assertRejects(() => withServer(answers, () => Promise.resolve()), XenblkError);
    assert(error.message.includes(reason), error.message);
  });
}

Deno.test("vhost: limits of a hostile config space are cut to what can be served", async () => {
  const answers = config((view) => {
    view.setUint32(12, 0xFFFF_FFFF, true);
    view.setUint8(24, 255);
    view.setUint32(36, 0xFFFF_FFFF, true);
    view.setUint32(44, 0xFFFF_FFFF, true);
  });
  await withServer(answers, async (device, rig) => {
    assertEquals(device.properties.physicalSectorBytes, 4096);
    assertEquals(device.properties.discard, undefined);
    using channel = await rig.channel(device);
    channel.channel.discard(0, 0, 4096, false);
    assertEquals(channel.finish().get(0), -EOPNOTSUPP);
  });
});

Deno.test("vhost: the write cache is switched on where that can be done, and a disk without one is written through", async () => {
  const told: number[][] = [];
  const record: Answers = { setConfig: (payload) => (told.push([...payload]), { payload: quads(0n) }) };
  await withServer(record, async (device) => {
    assertEquals(device.properties.cache, "writeback");
    await Promise.resolve();
  });
  // struct: offset, size, flags; then the byte.
  assertEquals(told.splice(0), [[WCE_AT, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]]);
  const fixed = { ...record, getFeatures: () => ({ payload: quads(FEATURES & ~(FEATURE.configWce | FEATURE.flush)) }) };
  await withServer(fixed, async (device, rig) => {
    assertEquals(device.properties.cache, "writethrough");
    using channel = await rig.channel(device);
    channel.channel.flush(0);
    assertEquals(channel.finish().get(0), 0);
  });
  assertEquals(told, []);
});

Deno.test("vhost: bytes that nobody asked for lose the connection", async () => {
  for (const bytes of [message(1, quads(0n)), new Uint8Array(12), new Uint8Array(12).fill(0xFF)]) {
    await withServer({}, async (device, _rig, server) => {
      await server.say(bytes);
      assert((await device.lost).includes("it does not follow the protocol"), await device.lost);
    });
  }
});

/** The test as the daemon: writes into the used ring of the first virtqueue. */
class Device {
  readonly #used16: Uint16Array;
  readonly #used32: Uint32Array;
  readonly #bytes: Uint8Array;
  readonly #callFd: number;
  #index = 0;

  constructor({ address, queue, callFd }: VhostAttachment) {
    const partition = address + queue * PARTITION_BYTES;
    const { buffer } = viewOf(partition + USED_AT, 8 + 8 * QUEUE_SIZE);
    this.#used16 = new Uint16Array(buffer);
    this.#used32 = new Uint32Array(buffer);
    this.#bytes = viewOf(partition + REQUESTS_AT, 64 * QUEUE_SIZE);
    this.#callFd = callFd;
  }

  /** Reports that the chain beginning there is done. */
  use(head: number, lengthBytes: number, status: number | undefined, steps = 1): void {
    this.#used32[1 + 2 * (this.#index % QUEUE_SIZE)] = head;
    this.#used32[2 + 2 * (this.#index % QUEUE_SIZE)] = lengthBytes;
    if (status !== undefined) this.#bytes[head * 64 + STATUS_AT] = status;
    this.#index += steps;
    Atomics.store(this.#used16, 1, this.#index);
    raiseEventfd(this.#callFd);
  }
}

async function withDevice(
  body: (daemon: Device, rig: ChannelRig, device: VhostDevice) => Promise<void>,
): Promise<void> {
  await withServer({}, async (device, rig) => {
    const attachment = await device.attachment(0) as VhostAttachment;
    using channel = rig.channelOn(attachment, { depth: 4 });
    await body(new Device(attachment), channel, device);
  });
}

const BREACHES: readonly (readonly [what: string, breach: (daemon: Device) => void, reason: string])[] = [
  [
    "an index that jumps",
    (daemon) => daemon.use(0, 1, 0, 3),
    "it reports 3 completions at once, more than there are requests",
  ],
  ["an index that goes back", (daemon) => daemon.use(0, 1, 0, -1), "it reports 65535 completions at once"],
  [
    "a descriptor out of range",
    (daemon) => daemon.use(70_000, 1, undefined),
    "the completion of descriptor 70000, which",
  ],
  [
    "a descriptor that begins nothing",
    (daemon) => daemon.use(1, 1, 0),
    "the completion of descriptor 1, which begins no request",
  ],
  [
    "more bytes than there is room",
    (daemon) => daemon.use(0, 4098, 0),
    "it wrote 4098 bytes, more than the request has room",
  ],
  ["the same request twice", (daemon) => {
    daemon.use(0, 4097, 0);
    daemon.use(0, 4097, 0);
  }, "the completion of descriptor 0, which begins no request"],
];

for (const [what, breach, reason] of BREACHES) {
  Deno.test(`vhost: a used ring with ${what} ends this disk only, and its operations with EIO`, async () => {
    await withDevice(async (daemon, rig, device) => {
      rig.read(0, 0, [4096]);
      rig.read(1, 0, [4096]);
      rig.channel.submit();
      breach(daemon);
      const reaped = rig.channel.reap();
      assertEquals([reaped, rig.channel.inFlight], what.includes("twice") ? [1, 1] : [0, 2]);
      const lost = await device.lost;
      assert(lost.startsWith("the storage daemon of image disk: it broke the rules of virtqueue 0: "), lost);
      assert(lost.includes(reason), lost);
      device.fail();
      assertEquals(rig.finish().get(1), -EIO);
    });
  });
}

Deno.test("vhost: statuses become errors, and one that was not written does, too", async () => {
  await withDevice(async (daemon, rig) => {
    await Promise.resolve();
    for (const [status, result] of [[0, 0], [1, -EIO], [2, -EOPNOTSUPP], [77, -EIO], [undefined, -EIO]] as const) {
      rig.read(0, 0, [4096]);
      rig.channel.submit();
      daemon.use(0, 4097, status);
      assertEquals(rig.finish().get(0), result);
    }
  });
});

Deno.test("vhost: rings and requests that the daemon overwrites change nothing but its own answers", async () => {
  await withServer({}, async (device, rig) => {
    const attachment = await device.attachment(0) as VhostAttachment;
    using channel = rig.channelOn(attachment, { depth: 4 });
    const daemon = new Device(attachment);
    // Everything before the used ring: descriptors and available ring.
    const rings = viewOf(attachment.address, USED_AT);
    for (let round = 0; round < 3000; round++) {
      channel.read(round % 4, 0, [512, 512, 512]);
      channel.channel.submit();
      rings.fill(round);
      daemon.use(0, 1537, 0);
      assertEquals(channel.finish(), new Map([[round % 4, 0]]));
    }
  });
});

Deno.test("vhost: the properties follow the config space, and stay if the limits of requests would change", async () => {
  let sectors = 2048n;
  let blockBytes = 512;
  const answers = config((view) => {
    view.setBigUint64(0, sectors, true);
    view.setUint32(20, blockBytes, true);
  });
  await withServer(answers, async (device) => {
    sectors = 4096n;
    await device.refresh();
    assertEquals(device.properties.sectors, 4096);
    blockBytes = 1024;
    sectors = 8192n;
    const reason = "its export has other limits than before";
    await assertRejects(() => device.refresh(), XenblkError, reason);
    assertEquals(device.properties.sectors, 4096);
  });
});
