/**
 * What the tests of snapshots share: a guest-like writer that knows what its disk must hold, and the cases in which
 * something dies at a step. No test is in here.
 */

import { assert, assertEquals } from "@std/assert";
import { activeImage, directoryOf } from "../../../lib/storage/image/overlay_note.ts";
import { chainBelow } from "../../../lib/storage/qemu/overlay_chain.ts";
import { commitJob, endCommit, findJob } from "../../../lib/storage/qemu/commit_job.ts";
import type { Committed } from "../../../lib/storage/qemu/merge_job.ts";
import { COMMIT_STEPS, type CommitOptions, planMerge } from "../../../lib/storage/qemu/overlay_commit.ts";
import {
  DELETE_STEPS,
  type DeleteOptions,
  planDeletion,
  type PlannedMerge,
} from "../../../lib/storage/qemu/overlay_delete.ts";
import { SNAPSHOT_STEPS, type SnapshotDisk, takeSnapshot } from "../../../lib/storage/qemu/overlay_create.ts";
import type { EngineDisk } from "./engine_rig.ts";

const PIECE = 4096;
const PIECES = 256;

/** Who is killed. */
export type Victim = "daemon" | "process" | "both";

/** A death. */
export interface DeathCase {
  readonly work: "create" | "commit" | "delete";
  readonly step: string;
  readonly victim: Victim;
}

/** All steps of all kinds of work with that victim. */
export function casesOf(victim: Victim): DeathCase[] {
  return [
    ...SNAPSHOT_STEPS.map((step) => ({ work: "create" as const, step, victim })),
    ...COMMIT_STEPS.map((step) => ({ work: "commit" as const, step, victim })),
    ...DELETE_STEPS.map((step) => ({ work: "delete" as const, step, victim })),
  ];
}

/** A disk, as snapshots are taken of it. */
export function snapshotDisk({ disk }: EngineDisk): SnapshotDisk {
  return { daemon: disk.daemon!, name: "xvda" };
}

/** Merges snapshots as a job of its own. */
export async function merge(disk: EngineDisk, options: CommitOptions): Promise<Committed> {
  return await carryOut(disk, await planMerge(snapshotDisk(disk), options));
}

/** Gives one snapshot up, as a job of its own. */
export async function remove(disk: EngineDisk, options: DeleteOptions): Promise<Committed> {
  return await carryOut(disk, await planDeletion(snapshotDisk(disk), options));
}

/** As a process does that has jobs: it dismisses one that has concluded; one that has failed, once that was seen. */
async function carryOut({ disk }: EngineDisk, planned: PlannedMerge): Promise<Committed> {
  const { run, prefix } = disk.daemon!;
  const id = commitJob(prefix);
  await run((monitor) => planned.begin(monitor));
  let ends = false;
  const dismissing = (async () => {
    for (; !ends; await new Promise((done) => setTimeout(done, 10))) {
      await run(async ({ execute }) => {
        const job = await findJob(execute, id);
        if (job?.status === "concluded" && job.error === undefined) await execute("job-dismiss", { id });
      }).catch(() => {}); // it ends with its daemon
    }
  })();
  try {
    return await planned.follow();
  } finally {
    ends = true;
    await dismissing;
    await run(({ execute }) => endCommit(execute, [prefix])).catch(() => {});
    await planned.tidy();
  }
}

/** Writes pieces one after the other, each with a number that grows; ends before its disk, also in a test that fails. */
export class Writer implements AsyncDisposable {
  readonly #disk: EngineDisk;
  readonly #answered: (count: number) => void;
  #count = 0;
  #ends = false;
  #running: Promise<void> = Promise.resolve();
  #failed: unknown;

  /** `answered` is called with the number of writes that were answered. */
  constructor(disk: EngineDisk, answered: (count: number) => void = () => {}) {
    this.#disk = disk;
    this.#answered = answered;
  }

  /** Writes that were answered. */
  get count(): number {
    return this.#count;
  }

  /** Writes until {@linkcode stop}. */
  start(): void {
    this.#ends = false;
    this.#running = (async () => {
      while (!this.#ends) await this.write();
    })();
    this.#running.catch((error) => this.#failed = error); // told by `more` and `stop`
  }

  /** Ends, once the last write is answered. */
  async stop(): Promise<void> {
    this.#ends = true;
    await this.#running;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ends = true;
    await this.#running.catch(() => {}); // the test's own error says more
  }

  /** One write, and now and then a flush. */
  async write(): Promise<void> {
    const number = this.#count + 1;
    const data = new Uint8Array(new Uint32Array(PIECE / 4).fill(number).buffer);
    await this.#disk.write(placeOf(number) * PIECE, data);
    this.#count = number;
    this.#answered(number);
    if (number % 64 === 0) await this.#disk.flush();
  }

  /** Resolves once that many more writes were answered. */
  async more(writes: number): Promise<void> {
    for (const until = this.#count + writes; this.#count < until;) {
      if (this.#failed !== undefined) throw this.#failed;
      await new Promise((done) => setTimeout(done, 1));
    }
  }
}

/** What is wrong on a disk to which so many writes were answered; `inFlight`: one more may have been carried out. */
export async function faultsOn(disk: EngineDisk, count: number, inFlight = false): Promise<string[]> {
  const words = new Uint32Array((await disk.read(0, PIECES * PIECE)).buffer);
  const wanted = new Array<number>(PIECES).fill(0);
  for (let number = Math.max(1, count - PIECES + 1); number <= count; number++) wanted[placeOf(number)] = number;
  return wanted.flatMap((number, piece) => {
    const found = words[piece * PIECE / 4]!;
    const isRight = found === number || (inFlight && found === count + 1 && placeOf(found) === piece);
    return isRight ? [] : [`piece ${piece} has ${found}, not ${number}`];
  });
}

/** 7 and the number of pieces have no common divisor: each piece is written once in a round. */
function placeOf(number: number): number {
  return (number * 7) % PIECES;
}

/** Takes a snapshot, or merges two, or gives up the second of three, and calls `die` at the step. */
export async function workUntil({ work, step }: DeathCase, disk: EngineDisk, die: () => Promise<void>): Promise<void> {
  const at = async (reached: string): Promise<void> => {
    if (reached === step) await die();
  };
  if (work === "create") return void await takeSnapshot([snapshotDisk(disk)], { snapshot: "one", at });
  for (const snapshot of ["one", "two"]) await takeSnapshot([snapshotDisk(disk)], { snapshot });
  if (work === "commit") return void await merge(disk, { snapshot: "one", at });
  await takeSnapshot([snapshotDisk(disk)], { snapshot: "three" });
  await remove(disk, { snapshot: "two", at });
}

/** The names of a disk's snapshots, the newest first. */
export async function snapshotNames(base: string): Promise<string[]> {
  const { target } = await activeImage({ format: "qcow2", target: base }, true);
  return (await chainBelow(target)).map(({ snapshot }) => snapshot);
}

/** After a death: gives up the snapshot if it is still there, and takes the steps that are left otherwise. */
export async function removeAgain({ work }: DeathCase, disk: EngineDisk, base: string): Promise<void> {
  if (work !== "delete") return;
  const files = (): string[] => [...Deno.readDirSync(directoryOf(base))].map(({ name }) => name);
  const isListed = (await snapshotNames(base)).includes("two");
  if (isListed) await remove(disk, { snapshot: "two" }).catch(notThere);
  if (!isListed && files().includes("web.two.qcow2")) {
    await takeSnapshot([snapshotDisk(disk)], { snapshot: "two" }); // its name is free
    assertEquals(await snapshotNames(base), ["two", "three", "one"]);
    await remove(disk, { snapshot: "two" });
  }
  assertEquals(await snapshotNames(base), ["three", "one"]);
  assert(!files().includes("web.two.qcow2"), `its file is gone: ${files()}`);
}

/** What was left was done before the snapshot was looked for. */
function notThere(error: Error): void {
  if (!error.message.includes("Cannot find snapshot")) throw error;
}
