/**
 * When a raw disk enters a storage daemon and leaves it again: who holds its visit, in which order that happens, and what
 * becomes of a disk that cannot leave.
 */

import { assertEquals, assertRejects } from "@std/assert";
import type { Clock } from "../../lib/clock.ts";
import { XenblkError } from "../../lib/errors.ts";
import { type Pause, type VisitDisks, type VisitedDisk, Visits } from "../../lib/jobs/visits.ts";

const DEVICE = "vbd3/5/51712";

/** One disk, which notes how it moves. */
class PlayedDisk implements VisitDisks {
  readonly moves: string[] = [];
  readonly lines: string[] = [];
  readonly ending = new AbortController();
  /** How long was waited until the next attempt. */
  readonly waits: number[] = [];
  readonly visits: Visits;
  disk: { inDaemon: boolean; visits: boolean; used: boolean } | undefined = {
    inDaemon: false,
    visits: false,
    used: true,
  };
  job = false;
  /** Why it cannot move. */
  refusal: string | undefined;
  /** A move takes so long. */
  moving: Promise<void> = Promise.resolve();
  #wake = Promise.withResolvers<void>();

  constructor() {
    const line = (text: string): void => void this.lines.push(text);
    const logger = { debug: line, info: line, warning: line, error: line };
    const clock: Clock = {
      now: () => 0,
      sleep: (ms, signal) => {
        this.waits.push(ms);
        signal?.addEventListener("abort", () => this.#wake.resolve());
        return this.#wake.promise;
      },
    };
    this.visits = new Visits({ disks: this, logger, ending: this.ending.signal, clock });
  }

  look(): VisitedDisk | undefined {
    return this.disk;
  }

  hasJob(): boolean {
    return this.job;
  }

  async move(_device: string, toDaemon: boolean): Promise<Pause> {
    this.moves.push(toDaemon ? "enters" : "leaves");
    await this.moving;
    if (this.refusal !== undefined) throw new XenblkError(this.refusal, { remedy: "wait" });
    this.disk = { ...this.disk!, inDaemon: toDaemon, visits: toDaemon };
    return { pausedMs: 12 };
  }

  /** The time is over until which it waits. */
  pass(): void {
    this.#wake.resolve();
    this.#wake = Promise.withResolvers();
  }
}

/** Whatever waits only for promises goes on as far as it can. */
function turn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

Deno.test("the last who needs the daemon lets the disk leave, and only the first has it enter", async () => {
  const played = new PlayedDisk();
  const { visits, moves } = played;
  const [one, two] = await Promise.all([visits.enter(DEVICE, "back it up"), visits.enter(DEVICE, "export it")]);
  assertEquals([one.entered, two.entered, moves], [{ pausedMs: 12 }, undefined, ["enters"]]);
  played.job = true;
  assertEquals(visits.heldTo(DEVICE), "back it up");
  one[Symbol.dispose]();
  one[Symbol.dispose]();
  assertEquals(visits.heldTo(DEVICE), "export it");
  two[Symbol.dispose]();
  await turn();
  assertEquals(visits.heldTo(DEVICE), undefined);
  assertEquals(await visits.settled(DEVICE), { visits: true });
  played.job = false;
  visits.check(DEVICE);
  visits.check(DEVICE);
  assertEquals(await visits.settled(DEVICE), { visits: false, left: { pausedMs: 12 } });
  assertEquals(moves, ["enters", "leaves"]);
  assertEquals(played.lines, [
    `${DEVICE}: it has entered its storage daemon, to back it up: requests waited for 12.0 ms`,
    `${DEVICE}: it has left its storage daemon: requests waited for 12.0 ms`,
  ]);
});

Deno.test("who needs the daemon while the disk leaves it waits, and has it enter anew", async () => {
  const played = new PlayedDisk();
  const { visits, moves } = played;
  const visit = await visits.enter(DEVICE, "back it up");
  const { promise, resolve } = Promise.withResolvers<void>();
  played.moving = promise;
  visit[Symbol.dispose]();
  await turn();
  const entering = visits.enter(DEVICE, "back it up");
  resolve();
  using again = await entering;
  assertEquals([again.entered, moves], [{ pausedMs: 12 }, ["enters", "leaves", "enters"]]);
});

Deno.test("who comes before the disk has begun to leave keeps it there", async () => {
  const played = new PlayedDisk();
  const { visits, moves } = played;
  const first = await visits.enter(DEVICE, "back it up");
  first[Symbol.dispose]();
  const second = visits.enter(DEVICE, "export it");
  using again = await second;
  assertEquals([again.entered, moves], [undefined, ["enters"]]);
});

Deno.test("a disk that is in its daemon for good never moves, and one that is gone or closed does not either", async () => {
  const played = new PlayedDisk();
  const { visits, moves } = played;
  played.disk = { inDaemon: true, visits: false, used: true };
  (await visits.enter(DEVICE, "back it up"))[Symbol.dispose]();
  played.disk = undefined;
  (await visits.enter(DEVICE, "back it up"))[Symbol.dispose]();
  visits.check(DEVICE);
  await turn();
  assertEquals([moves, await visits.settled(DEVICE)], [[], { visits: false }]);
});

Deno.test("a disk that cannot enter stays as it was, and the error says for what it was to", async () => {
  const played = new PlayedDisk();
  const { visits, moves } = played;
  played.refusal = "Cannot find it";
  const error = await assertRejects(() => visits.enter(DEVICE, "back it up"), XenblkError);
  assertEquals(error.line, "Cannot back it up: its storage daemon cannot take it over: Cannot find it; wait");
  played.refusal = undefined;
  using later = await visits.enter(DEVICE, "back it up");
  assertEquals([later.entered, moves], [{ pausedMs: 12 }, ["enters", "enters"]]);
});

Deno.test("a disk that cannot leave is tried again, less and less often, and says why once", async () => {
  const played = new PlayedDisk();
  const { visits, moves, waits } = played;
  const visit = await visits.enter(DEVICE, "back it up");
  played.refusal = "another file is there";
  visit[Symbol.dispose]();
  for (let attempt = 0; attempt < 10; attempt++) {
    await turn();
    visits.check(DEVICE); // does not come in between
    await turn();
    assertEquals(moves.length, 2 + attempt);
    played.pass();
  }
  await turn();
  assertEquals(waits, [1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 128_000, 256_000, 300_000, 300_000]);
  assertEquals(await visits.settled(DEVICE), { visits: true, trouble: "another file is there; wait" });
  assertEquals(played.lines.filter((line) => /stays in its storage daemon for now: another file/.test(line)).length, 1);
  played.refusal = undefined;
  played.pass();
  await turn();
  assertEquals(await visits.settled(DEVICE), { visits: false, left: { pausedMs: 12 } });
});

Deno.test("a disk whose guest is not connected leaves once it is, and none leaves while the process ends", async () => {
  const played = new PlayedDisk();
  const { visits, moves } = played;
  played.disk = { inDaemon: true, visits: true, used: false };
  visits.check(DEVICE);
  await turn();
  assertEquals(moves, []);
  played.disk.used = true;
  visits.check(DEVICE);
  await turn();
  assertEquals(moves, ["leaves"]);
  played.disk = { inDaemon: true, visits: true, used: true };
  played.refusal = "the process ends";
  visits.check(DEVICE);
  played.ending.abort();
  await visits[Symbol.asyncDispose]();
  visits.check(DEVICE);
  await turn();
  assertEquals(played.lines.filter((line) => /for now/.test(line)), []);
});
