/**
 * Disks of storage daemons with their write log, when things go wrong twice: a pretended daemon dies while the log is
 * written again, does not answer, or reports an error; and logs that are damaged or another disk's.
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { type Clock, SYSTEM_CLOCK } from "../../lib/clock.ts";
import { XenblkError } from "../../lib/errors.ts";
import type { Platform } from "../../lib/hypervisor.ts";
import { parseNonce } from "../../lib/nonce.ts";
import type { Disk } from "../../lib/storage/disk.ts";
import { openDaemonDisk } from "../../lib/storage/daemon_disk.ts";
import { writeLogName } from "../../lib/storage/write_log/name.ts";
import {
  type DaemonDisk,
  type DiskLoss,
  type ImageDaemons,
  type QemuRequest,
  RunDirectoryError,
} from "../../lib/storage/qemu/types.ts";
import type { VhostClient, VhostDevice } from "../../lib/storage/vhost.ts";
import { DiskLog, logBytes, type LogPartition } from "../../lib/storage/write_log/log.ts";
import { STATE, stoppedAttachment } from "./replayed_disk.ts";
import { simulatedPlatform } from "./rig.ts";

const DEVICE = "vbd3/5/51712";
const SECTOR = 512;

/** One guest's disk in daemons that a test plays: an image, and what its run directory records. */
class Stage {
  readonly platform: Platform = simulatedPlatform(64 << 20);
  readonly image = new SharedArrayBuffer(64 * SECTOR);
  readonly state = new SharedArrayBuffer(4);
  readonly open = new SharedArrayBuffer(4);
  readonly messages: string[] = [];
  /** The recorded tag, and why the disk is lost. */
  tag: string | undefined;
  lostBefore: string | undefined;
  failed = false;
  connections = 0;
  clock: Clock = SYSTEM_CLOCK;
  /** What keeps the disk from being opened by another daemon. */
  reopening: () => Promise<void> = () => Promise.resolve();
  /** Of the disk that was opened last: the other processes are dead. */
  #current = { loss: Promise.withResolvers<DiskLoss>() };
  /** Of connections of a replay. */
  #ended = Promise.withResolvers<string>();

  /** Opens the disk as a process of ours does. */
  openDisk(): Promise<Disk> {
    const services = {
      inspector: { inspect: () => Promise.reject(new Error("no file is named")) },
      daemons: {
        open: (request: QemuRequest) => Promise.resolve(this.#openByDaemon(request)),
      } as unknown as ImageDaemons,
      vhost: { connect: () => Promise.resolve(this.#connect()) } as unknown as VhostClient,
      platform: this.platform.descriptor,
      logs: this.platform.journals,
      clock: this.clock,
      directory: "/nonexistent",
    };
    const request = {
      format: "json",
      target: `{"driver": "null-co"}`,
      readOnly: false,
      engine: "auto",
      owner: { guest: 5, device: DEVICE },
    } as const;
    return openDaemonDisk(request, services, (message) => void this.messages.push(message));
  }

  set word(value: number) {
    Atomics.store(new Int32Array(this.state), 0, value);
  }

  /** The daemon has died. */
  die(): void {
    const before = this.#current.loss;
    this.#current.loss = Promise.withResolvers();
    before.resolve({ reason: "the daemon died", writesLost: true });
  }

  /** The connection of a replay ends, as its daemon dies. */
  endReplay(): void {
    const before = this.#ended;
    this.#ended = Promise.withResolvers();
    before.resolve("the second daemon died");
  }

  /** The log as the disk's channels have it: its first part. */
  partition(): LogPartition {
    return this.log().partition(0);
  }

  log(): DiskLog {
    return new DiskLog(this.logMemory());
  }

  logMemory(): Uint8Array {
    return this.platform.journals.open(writeLogName(DEVICE), LOG_BYTES).view;
  }

  /** What a guest has written, was told of, and did not flush. */
  logWrite(partition: LogPartition, sector: number, fill: number): void {
    const entry = partition.addWrite(sector * SECTOR, SECTOR);
    partition.data.fill(fill, partition.dataAt(entry), partition.dataAt(entry) + SECTOR);
    partition.writeAnswered(entry);
  }

  sector(sector: number): number {
    return new Uint8Array(this.image)[sector * SECTOR]!;
  }

  /** Once there is a message that matches. */
  async says(pattern: RegExp): Promise<void> {
    await until(() => this.messages.some((message) => pattern.test(message)), `${pattern} in ${this.messages}`);
  }

  get openChannels(): number {
    return Atomics.load(new Int32Array(this.open), 0);
  }

  #openByDaemon({ tag }: QemuRequest): DaemonDisk {
    this.tag ??= tag;
    const close = (): Promise<void> =>
      Promise.resolve(void (this.tag = this.lostBefore === undefined ? undefined : this.tag));
    const opened = this.#current = { loss: Promise.withResolvers<DiskLoss>() };
    return {
      properties: { sectors: 64, logicalSectorBytes: SECTOR, physicalSectorBytes: 4096, readOnly: false },
      description: "pretended",
      daemon: { top: "", prefix: "", layers: {}, image: undefined, run: unused, isReplaced: unused },
      changeTo: unused,
      get lost() {
        return opened.loss.promise;
      },
      tag: this.tag,
      ...(this.lostBefore === undefined ? {} : { lostBefore: this.lostBefore }),
      attachment: () => Promise.resolve(stoppedAttachment(this.image, this.state, this.open)),
      settle: () => {
        this.lostBefore = undefined;
        return Promise.resolve();
      },
      fail: () => {
        this.failed = true;
        this.word = STATE.fails;
      },
      recover: async (replay) => {
        await this.reopening();
        await replay("socket");
      },
      closeSettled: () => {
        this.lostBefore = undefined;
        return close();
      },
      [Symbol.asyncDispose]: close,
    };
  }

  #connect(): VhostDevice {
    this.connections++;
    return {
      lost: this.#ended.promise,
      attachment: () => Promise.resolve(stoppedAttachment(this.image, this.state, this.open)),
      fail: () => this.word = STATE.fails,
      [Symbol.asyncDispose]: () => until(() => this.openChannels === 0, "the replay has let go of the disk"),
    } as unknown as VhostDevice;
  }
}

const LOG_BYTES = logBytes(4, 4 << 20);

async function until(holds: () => boolean, what: string): Promise<void> {
  for (const end = performance.now() + 20_000; !holds();) {
    assert(performance.now() < end, `not so: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

Deno.test("a daemon that dies while the log is written again is followed by the next one, soon", async () => {
  const stage = new Stage();
  await using _disk = await stage.openDisk();
  stage.logWrite(stage.partition(), 3, 7);
  stage.word = STATE.hangs;
  stage.die();
  await until(() => stage.openChannels === 1, "it is being written again");
  stage.endReplay();
  await stage.says(/Cannot write again to .*: the second daemon died; .*trying again/);
  stage.word = STATE.works;
  await stage.says(/wrote 1 operations \(512 bytes\) of its log again/);
  assertEquals([stage.sector(3), stage.failed, stage.openChannels], [7, false, 0]);
});

/** `serve` and the daemon have died: what the guest has written to sector 3 is in the log alone. */
async function bothDead(): Promise<Stage> {
  const stage = new Stage();
  await stage.openDisk(); // never closed, as after kill -9
  stage.logWrite(stage.partition(), 3, 7);
  stage.lostBefore = "the daemon ended while nobody watched";
  return stage;
}

/** Why the disk has failed. */
async function failureOf(disk: Disk): Promise<string | undefined> {
  let failure: string | undefined;
  void disk.failed!.then((reason) => failure = reason);
  await new Promise((resolve) => setTimeout(resolve, 0));
  return failure;
}

Deno.test("what could not be written again at one attempt is written at the next", async () => {
  const stage = await bothDead();
  stage.word = STATE.fails;
  await assertRejects(() => stage.openDisk(), XenblkError, "Cannot write again to image json:");
  assertEquals(stage.lostBefore, "the daemon ended while nobody watched");
  stage.word = STATE.works;
  await using disk = await stage.openDisk();
  assertEquals([stage.sector(3), stage.lostBefore, await failureOf(disk)], [7, undefined, undefined]);
});

Deno.test("a daemon that dies while the next process has it flush fails that attempt alone", async () => {
  const stage = new Stage();
  await stage.openDisk();
  stage.logWrite(stage.partition(), 3, 7);
  stage.word = STATE.hangs;
  const opening = stage.openDisk();
  await until(() => stage.openChannels === 1, "it is being flushed");
  stage.die();
  stage.lostBefore = "the daemon died";
  await assertRejects(() => opening, XenblkError, "the daemon died");
  stage.word = STATE.works;
  await using disk = await stage.openDisk();
  assertEquals([stage.sector(3), await failureOf(disk)], [7, undefined]);
});

Deno.test("a flush that fails for the next process fails the disk, since another one would succeed", async () => {
  const stage = new Stage();
  await stage.openDisk();
  stage.logWrite(stage.partition(), 3, 7);
  stage.word = STATE.fails;
  await using disk = await stage.openDisk();
  assertMatch((await failureOf(disk))!, /the flush: EIO/);
});

const DAMAGES: Readonly<Record<string, (stage: Stage) => void>> = {
  "was removed": (stage) => stage.platform.journals.remove(writeLogName(DEVICE)),
  "is zeroed": (stage) => stage.logMemory().fill(0),
  "is garbage": (stage) => stage.logMemory().fill(0xA5),
  "was cut": (stage) => void stage.platform.journals.open(writeLogName(DEVICE), LOG_BYTES / 2),
  "was longer": (stage) => void stage.platform.journals.open(writeLogName(DEVICE), LOG_BYTES + 4096),
  "is of another version": (stage) => header(stage)[1]!++,
  "says it has more parts": (stage) => header(stage)[2] = 0x7fff_ffff,
  "says it has no parts": (stage) => header(stage)[2] = 0,
  "says its parts are large": (stage) => header(stage)[3] = 0x4000_0000,
  "says its parts have less than no bytes": (stage) => header(stage)[3] = -4096,
  "is another disk's": (stage) => header(stage)[4]! ^= 1,
};

function header(stage: Stage): Int32Array {
  const { buffer, byteOffset } = stage.logMemory();
  return new Int32Array(buffer, byteOffset, 16);
}

for (const [damage, inflict] of Object.entries(DAMAGES)) {
  Deno.test(`a log that ${damage} is not written: the disk fails, and says so`, async () => {
    const stage = await bothDead();
    inflict(stage);
    await using disk = await stage.openDisk();
    assertEquals(
      await failureOf(disk),
      "the daemon ended while nobody watched, and its write log is missing, damaged or another disk's",
    );
    assertEquals(stage.sector(3), 0);
  });
}

Deno.test("a damaged entry is not written, nor what follows it: the disk fails, and says so", async () => {
  for (const [word, value] of [[2, 0x7fff], [3, 0x7fff_ffff], [4, 1], [5, 0x7fff_ffff], [5, -1]] as const) {
    const stage = await bothDead();
    const { buffer, byteOffset } = stage.logMemory();
    new Int32Array(buffer, byteOffset + 4096, 8)[word] = value;
    await using disk = await stage.openDisk();
    assertMatch((await failureOf(disk)) ?? "", /its write log is missing, damaged or another disk's/);
    assertEquals([...new Uint8Array(stage.image)].some((byte) => byte !== 0), false);
  }
});

Deno.test("a disk that is closed while it is lost leaves its log to the one who opens it next", async () => {
  const stage = new Stage();
  const disk = await stage.openDisk();
  stage.logWrite(stage.partition(), 3, 7);
  stage.word = STATE.hangs;
  stage.die();
  stage.lostBefore = "the daemon died";
  await until(() => stage.openChannels === 1, "it is being written again");
  const closing = disk[Symbol.asyncDispose]();
  stage.endReplay();
  await closing;
  assertEquals(await failureOf(disk), undefined);
  stage.word = STATE.works;
  await using _again = await stage.openDisk();
  assertEquals(stage.sector(3), 7);
});

Deno.test("a disk that was closed with nothing to lose leaves no log", async () => {
  const stage = new Stage();
  await (await stage.openDisk())[Symbol.asyncDispose]();
  assertEquals(stage.platform.journals.names(), []);
  assertEquals(parseNonce(stage.tag), undefined);
});

for (const [error, seconds] of [[XenblkError, 60], [RunDirectoryError, 600]] as const) {
  Deno.test(`after ${seconds} s without another daemon for ${error.name} a disk fails, and not before`, async () => {
    const stage = new Stage();
    let nowMs = 0;
    const sleep = (ms: number): Promise<void> => Promise.resolve(void (nowMs += ms));
    stage.clock = { now: () => nowMs, sleep };
    stage.reopening = () => Promise.reject(new error("Cannot start it: no"));
    await using disk = await stage.openDisk();
    stage.logWrite(stage.partition(), 3, 7);
    stage.die();
    assertMatch(await disk.failed!, /^the daemon died; and no other serves it: Cannot start it: no/);
    assert(nowMs >= seconds * 1000 && nowMs < seconds * 1000 + 10_000, `${nowMs}`);
    assertEquals(stage.messages.filter((message) => /trying again/.test(message)).length, 1, "it is said once");
  });
}

function unused(): never {
  throw new Error("no test changes the image");
}
