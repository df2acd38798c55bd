/**
 * Double faults of what a process keeps below /run: it is killed, and a journal or latch is missing, cut off, doubled, of
 * another version or of another connection; or /run is full, without inodes or read-only when a file is made. Each ends
 * in the right responses, or in a disk that is refused or latched and says why in its error node, its status and the
 * log; never in a lost or doubled request. The files are real, on a small tmpfs; the guest checks its responses.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { Random } from "../../lib/guest/random.ts";
import { journalBytes } from "../../lib/dataplane/journal.ts";
import { LATCH_BYTES } from "../../lib/dataplane/latch.ts";
import { backendPath } from "../../lib/xenbus/paths.ts";
import type { Xenstore } from "../../lib/hypervisor.ts";
import { faultyStore } from "../backend/faulty_store.ts";
import type { Breakage } from "../simulation/backend_process.ts";
import { ProcessKilled } from "../simulation/crash_points.ts";
import { Decisions } from "../simulation/decisions.ts";
import { Run } from "../simulation/run.ts";
import { World } from "../simulation/world.ts";
import { CANNOT_MOUNT, KeptFiles, SmallRun } from "./kept_files.ts";

/** Every decision is the least eventful one: one disk, no faults, x86_64-abi, a ring of one page. */
const UNEVENTFUL = { setup: [], steps: [], ending: [] };
const MOST_ROUNDS = 60;
const JOURNAL = "vbd3-1-51712-0";
const LATCH = "vbd3-1-51712-latch";
const SECOND_JOURNAL = "vbd3-1-51712-1";
const LOCK = "vbd3-1-51712.lock";
const SLOTS = 32;
const PAGE = 4096;

if (CANNOT_MOUNT !== undefined) {
  Deno.stderr.writeSync(new TextEncoder().encode(`kept_files_test.ts is skipped: ${CANNOT_MOUNT}\n`));
}

/** A test that needs a tmpfs of its own. */
function test(name: string, act: () => Promise<void>): void {
  Deno.test({ name, ignore: CANNOT_MOUNT !== undefined, fn: act });
}

/** A simulated host with one guest; its processes keep their files on a tmpfs. */
class Host implements Disposable {
  readonly world: World;
  readonly run = new Run(new Decisions(new Random(0), UNEVENTFUL), true);
  /** The first text of the error node; it is removed when the error is over. */
  error: string | undefined;
  /** Called before a process removes a file. */
  removing: (name: string) => void = () => {};
  readonly #directory: string;
  #files: KeptFiles | undefined;

  constructor(readonly small: SmallRun, breakage: Breakage = {}) {
    this.#directory = `${small.path}/xenblk`;
    this.world = new World(this.run, {
      ...breakage,
      platform: (platform) =>
        (this.#files = new KeptFiles(this.#directory, (name) => this.removing(name))).wrap(platform),
    });
    this.world.startProcess();
    this.world.slots[0]!.toolstackStep();
  }

  get inFlight(): number {
    return this.world.slots[0]!.guest?.connection?.inFlight ?? 0;
  }

  get phase(): string | undefined {
    return this.world.slots[0]!.guest?.phase;
  }

  /** Everybody does one thing in each round, until it is so. */
  async until(what: string, isSo: () => boolean): Promise<void> {
    for (let rounds = 0; !isSo(); rounds++) {
      assert(rounds < MOST_ROUNDS, `not until ${what}: the guest is ${this.phase}, ${this.inFlight} in flight`);
      await this.round();
    }
  }

  async round(): Promise<void> {
    const { world } = this;
    world.deliver();
    world.process!.finishCall();
    world.slots[0]!.guest?.step();
    world.turn();
    world.carryOut();
    world.process!.clock.advance(1000);
    await world.settle();
    this.error ??= this.node("error");
    assertEquals(this.run.violation, undefined);
  }

  async rounds(count: number): Promise<void> {
    for (let round = 0; round < count; round++) await this.round();
  }

  node(name: string): string | undefined {
    const { address } = this.world.slots[0]!;
    if (address === undefined) return undefined;
    using store = this.world.host.store.connect(address.backendDomain);
    return store.read(`${backendPath(address)}/${name}`);
  }

  /** The guest has sent five requests; the second one is answered, and the process is killed. */
  async killedInFlight(): Promise<void> {
    const { world } = this;
    await this.until("it is connected", () => this.phase === "connected");
    const { guest, watch } = world.slots[0]!;
    while (this.inFlight < 5) guest!.connection!.send(undefined, 0);
    const [channel] = watch.channels;
    this.#turns();
    assertEquals(channel!.underWay, 5);
    channel!.carryOut(1);
    this.#turns();
    guest!.connection!.peek();
    assertEquals(this.inFlight, 4);
    this.kill();
  }

  #turns(): void {
    for (let turn = 0; turn < 4; turn++) {
      this.world.process!.wake();
      this.world.turn();
    }
  }

  kill(): void {
    this.world.process!.kill();
    this.#files!.killed();
  }

  /** A file's bytes are changed; undefined removes it. */
  damage(name: string, change: (bytes: Uint8Array) => Uint8Array | undefined): void {
    const changed = change(this.read(name));
    if (changed === undefined) Deno.removeSync(`${this.#directory}/${name}`);
    else this.write(name, changed);
  }

  get files(): string[] {
    return [...Deno.readDirSync(this.#directory)].map(({ name }) => name);
  }

  read(name: string): Uint8Array {
    return Deno.readFileSync(`${this.#directory}/${name}`);
  }

  write(name: string, bytes: Uint8Array): void {
    Deno.writeFileSync(`${this.#directory}/${name}`, bytes);
  }

  /** The device is refused or latched, and that is said wherever people look. */
  says(reason: RegExp): void {
    assertMatch(this.error ?? "there is no error node", reason);
    assertMatch(this.world.process!.log.filter((line) => line.startsWith("error")).join("\n"), reason);
    assertMatch(this.world.process!.status[0]?.error ?? "the status has no error", reason);
  }

  [Symbol.dispose](): void {
    this.kill();
  }
}

/** Changes one 32-bit word. */
function withWord(bytes: Uint8Array, word: number, value: number): Uint8Array {
  new DataView(bytes.buffer).setUint32(4 * word, value, true);
  return bytes;
}

/** What may have happened to the journal of a process that was killed with requests in flight. */
const DAMAGES: readonly (readonly [what: string, change: (bytes: Uint8Array) => Uint8Array | undefined])[] = [
  ["is missing", () => undefined],
  ...[0, 1, 63, 64, 64 + 16, 64 + 128, journalBytes(SLOTS) - 1].map((length) =>
    [`was cut off after ${length} bytes`, (bytes: Uint8Array) => bytes.subarray(0, length)] as const
  ),
  ["is there twice in one file", (bytes) => new Uint8Array([...bytes, ...bytes])],
  ["has one byte more", (bytes) => new Uint8Array([...bytes, 0])],
  ["was just being made", (bytes) => bytes.fill(0)],
  ["was just being started", (bytes) => withWord(bytes, 0, 0)],
  ["is of another version", (bytes) => withWord(bytes, 1, 2)],
  ["is of a ring of another size", (bytes) => withWord(bytes, 2, 64)],
  ["has another number of entries", (bytes) => withWord(bytes, 3, 64)],
  ["is of another connection, guest, ring or port: another nonce", (bytes) => withWord(bytes, 7, 1)],
  ["says that more was taken than the ring holds", (bytes) => withWord(bytes, 8, 77)],
];

for (const [what, change] of DAMAGES) {
  test(`killed with requests in flight, and the journal ${what}: refused, and nothing is lost or doubled`, async () => {
    using small = new SmallRun("size=64k");
    using host = new Host(small);
    await host.killedInFlight();
    host.damage(JOURNAL, change);
    host.world.startProcess();
    await host.rounds(20);
    host.says(
      /Cannot continue with the guest's requests: an earlier process left no valid journal of them; restart the guest/,
    );
    assertEquals([host.node("state"), host.inFlight], ["4", 4], "its requests are left to the operator");
    host.world.slots[0]!.remove();
    await host.until("it is attached anew", () => {
      host.world.slots[0]!.toolstackStep();
      return host.phase === "connected" && host.world.slots[0]!.isServed;
    });
  });
}

const HARMLESS: readonly (readonly [what: string, damage: (host: Host) => void])[] = [
  ["nothing is damaged", () => {}],
  ["its lock file is left", (host) => host.write(LOCK, new Uint8Array(0))],
  ["there is a second journal, as of another ring", (host) => host.write(SECOND_JOURNAL, host.read(JOURNAL))],
  ["/run is full", (host) => host.small.fill(0)],
];

for (const [what, damage] of HARMLESS) {
  test(`killed with requests in flight, and ${what}: each is answered once`, async () => {
    using small = new SmallRun("size=64k");
    using host = new Host(small);
    await host.killedInFlight();
    damage(host);
    host.world.startProcess();
    await host.until("all is answered", () => host.inFlight === 0);
    assertEquals([host.phase, host.error], ["connected", undefined]);
    assert(host.world.process!.log.some((line) => /recovered after a crash: 4 requests/.test(line)));
  });
}

test("killed with nothing in flight, and the journal is missing: the disk is served, and the log says so", async () => {
  using small = new SmallRun("size=64k");
  using host = new Host(small);
  await host.killedInFlight();
  host.world.startProcess();
  await host.until("all is answered", () => host.inFlight === 0);
  host.kill();
  host.damage(JOURNAL, () => undefined);
  host.world.startProcess();
  await host.until("it is taken over", () => host.world.slots[0]!.isServed);
  host.world.slots[0]!.guest!.connection!.send(undefined, 0);
  await host.until("all is answered", () => host.inFlight === 0);
  assert(host.world.process!.log.some((line) => /the ring shows that no request is lost/.test(line)));
});

const LOST_LATCHES: readonly (readonly [what: string, change: (bytes: Uint8Array) => Uint8Array | undefined])[] = [
  ["is missing", () => undefined],
  ["was cut off", (bytes) => bytes.subarray(0, LATCH_BYTES - 4)],
  ["is there twice in one file", (bytes) => new Uint8Array([...bytes, ...bytes])],
  ["was just being started", (bytes) => withWord(bytes, 0, 0)],
  ["is of another version", (bytes) => withWord(bytes, 1, 2)],
  ["is of another attachment", (bytes) => withWord(bytes, 4, 1)],
];

for (const [what, change] of LOST_LATCHES) {
  test(`killed, and the latch ${what}: the disk is latched until it is attached anew`, async () => {
    using small = new SmallRun("size=64k");
    using host = new Host(small);
    await host.until("it is connected", () => host.phase === "connected");
    host.kill();
    host.damage(LATCH, change);
    host.world.startProcess();
    await host.until("it is taken over", () => host.world.slots[0]!.isServed);
    await host.round();
    host.says(/a flush failed since it was attached, or the file that records this was lost/);
    assertEquals(host.world.process!.status[0]!.latched, true);
    host.world.slots[0]!.remove();
    await host.until("it is attached anew", () => {
      host.world.slots[0]!.toolstackStep();
      return host.phase === "connected" && host.world.slots[0]!.isServed;
    });
    assertEquals(host.world.process!.status[0]!.latched, false);
  });
}

/** A /run that lacks something when the first file that needs it is made, and how to put it right. */
const FULL: readonly {
  readonly what: string;
  readonly options: string;
  readonly reason: RegExp;
  readonly before?: (small: SmallRun) => void;
  readonly after: (small: SmallRun) => void;
}[] = [
  {
    what: "has no inode for the lock file",
    options: "size=64k,nr_inodes=2",
    reason: /Cannot keep .*\.lock: No space left on device.*; free space or inodes/,
    after: (small) => small.remount("nr_inodes=16"),
  },
  {
    what: "has no inode for the latch",
    options: "size=64k,nr_inodes=3",
    reason: /Cannot keep .*-latch: No space left on device.*; free space or inodes/,
    after: (small) => small.remount("nr_inodes=16"),
  },
  {
    what: "has no inode for the journal",
    options: "size=64k,nr_inodes=4",
    reason: /Cannot keep .*-0: No space left on device.*; free space or inodes/,
    after: (small) => small.remount("nr_inodes=16"),
  },
  {
    what: "has no space for the latch",
    options: "size=64k",
    before: (small) => small.fill(0),
    reason: /Cannot keep .*-latch: No space left on device.*; free space or inodes/,
    after: (small) => small.fill(Infinity),
  },
  {
    what: "has no space for the journal",
    options: "size=64k",
    before: (small) => small.fill(PAGE),
    reason: /Cannot keep .*-0: No space left on device.*; free space or inodes/,
    after: (small) => small.fill(Infinity),
  },
  {
    what: "has space for a part of the journal",
    options: "size=64k",
    before: (small) => small.fill(2 * PAGE),
    reason: /Cannot keep .*-0: No space left on device.*; free space or inodes/,
    after: (small) => small.fill(Infinity),
  },
  {
    what: "is read-only",
    options: "size=64k",
    before: (small) => small.remount("ro"),
    reason: /Cannot keep .*\.lock: Read-only file system.*; make the directory writable/,
    after: (small) => small.remount("rw"),
  },
];

for (const { what, options, reason, before, after } of FULL) {
  test(`/run ${what}: the disk is refused and says why, and is served once /run is put right`, async () => {
    using small = new SmallRun(options);
    before?.(small);
    using host = new Host(small);
    let said = false;
    await host.until("it says why", () => {
      const status = host.world.process!.status[0]?.error ?? "";
      said ||= reason.test(status) && reason.test(host.error ?? "");
      return said;
    });
    assert(host.world.process!.log.some((line) => line.startsWith("error") && reason.test(line)));
    assertEquals(host.world.slots[0]!.isServed, false);
    after(small);
    await host.until("it is connected", () => host.phase === "connected" && host.world.slots[0]!.isServed);
    host.world.slots[0]!.guest!.connection!.send(undefined, 0);
    await host.until("all is answered", () => host.inFlight === 0);
    assertEquals([host.node("error"), host.world.process!.status[0]!.error], [undefined, undefined]);
  });
}

for (const name of ["attachment-nonce", "connection-nonce"]) {
  test(`xenstore has no space for ${name}: nothing is served, and the disk is once there is space`, async () => {
    using small = new SmallRun("size=64k");
    let full = true;
    const store = (inner: Xenstore): Xenstore =>
      faultyStore(inner, ({ what, path }) => full && what === "write" && path.endsWith(name) ? "ENOSPC" : undefined);
    using host = new Host(small, { store });
    await host.rounds(20);
    assertMatch(host.world.process!.status[0]!.error ?? "", new RegExp(`cannot connect .*${name}`));
    assert(host.world.process!.log.some((line) => line.startsWith("error") && line.includes(name)));
    assertEquals(host.world.slots[0]!.isServed, false);
    full = false;
    await host.until("it is connected", () => host.phase === "connected" && host.world.slots[0]!.isServed);
    assertEquals(host.world.process!.status[0]!.error, undefined);
  });
}

test("killed before any removal of a file: the guest reconnects or the disk is detached, and no file stays", async () => {
  using small = new SmallRun("size=64k");
  let removals = Infinity;
  for (let deadly = 0; deadly < removals; deadly++) {
    using host = new Host(small);
    await host.until("it is connected", () => host.phase === "connected");
    let count = 0;
    host.removing = () => {
      if (count++ !== deadly) return;
      host.kill();
      throw new ProcessKilled("the process was killed");
    };
    const slot = host.world.slots[0]!;
    slot.guest!.calm = true; // it heeds its backend's state at every step
    slot.requestRemoval();
    for (let rounds = 0; slot.address !== undefined && host.world.process!.state !== "ended"; rounds++) {
      assert(rounds < MOST_ROUNDS, "the disk is neither detached nor the process killed");
      await host.round();
      slot.toolstackStep();
    }
    host.removing = () => {};
    if (host.world.process!.state === "ended") host.world.startProcess();
    else removals = count;
    await host.until("it is attached anew", () => {
      slot.toolstackStep();
      return host.phase === "connected" && slot.isServed;
    });
    host.world.slots[0]!.guest!.connection!.send(undefined, 0);
    await host.until("all is answered", () => host.inFlight === 0);
    slot.retire();
    await host.until("it is over", () => {
      if (slot.address !== undefined) slot.toolstackStep();
      return slot.address === undefined && host.world.process!.status.length === 0;
    });
    assertEquals(host.files, [], `killed before removal ${deadly}`);
  }
  assert(removals > 2, `only ${removals} removals`);
});
