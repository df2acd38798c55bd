/**
 * Kills the storage daemon, `serve` or both at random points of work on a living disk, and looks each time whether the disk
 * is right, its image sound, the end of the work told as it was, and nothing left.
 */

import { errorText } from "../../../../lib/errors.ts";
import { Random } from "../../../../lib/guest/random.ts";
import { qemuImg } from "../../qemu_img.ts";
import { FormatStage } from "../format_stage.ts";
import { SwapStage } from "../swap_stage.ts";
import { CommitWork, DeleteWork, MirrorWork, SnapshotWork, SwapWork } from "./changes.ts";
import { BackupWork, ExportWork } from "./copies.ts";
import { DiscWork, openDrive } from "./discs.ts";
import { type Ending, Scene } from "./scene.ts";
import type { Point, Work } from "./work.ts";

/** The kinds of work, in the order in which they are done. */
export const JOBS = ["backup", "mirror", "commit", "snapshot", "delete", "export", "swap", "disc"] as const;
export type JobName = typeof JOBS[number];

const ENDINGS: readonly Ending[] = ["daemon", "serve", "both"];
/** A point may be so much after the usual end, in parts of the time until then. */
const LATEST = 1.2;

interface Kind {
  /** How long the work takes on an idle machine. */
  readonly usualMs: number;
  open(): Promise<Scene>;
  work(scene: Scene): Work;
}

/** Of a qcow2 disk with two rings. */
async function openDisk(): Promise<Scene> {
  const stage = await FormatStage.open("qcow2", [], { queues: 2 }, async (image) => {
    await qemuImg("create", "-q", "-f", "qcow2", image, "32M");
    return `qcow2:${image}`;
  });
  return await Scene.open(stage, () => stage.serve("--queues", "2"));
}

async function openSwaps(): Promise<Scene> {
  const stage = await SwapStage.open();
  return await Scene.open(stage, () => stage.serve());
}

function swapWork(scene: Scene): Work {
  const { folder } = scene;
  return new SwapWork(scene, [`raw:${folder}/disk.raw`, `qcow2:${folder}/one.qcow2`, `qcow2:${folder}/two.qcow2`]);
}

const KINDS: Readonly<Record<JobName, Kind>> = {
  backup: { usualMs: 1500, open: openDisk, work: (scene) => new BackupWork(scene) },
  mirror: { usualMs: 2000, open: openDisk, work: (scene) => new MirrorWork(scene) },
  commit: { usualMs: 1000, open: openDisk, work: (scene) => new CommitWork(scene) },
  snapshot: { usualMs: 200, open: openDisk, work: (scene) => new SnapshotWork(scene) },
  delete: { usualMs: 1000, open: openDisk, work: (scene) => new DeleteWork(scene) },
  export: { usualMs: 600, open: openDisk, work: (scene) => new ExportWork(scene) },
  swap: { usualMs: 300, open: openSwaps, work: swapWork },
  disc: { usualMs: 300, open: openDrive, work: (scene) => new DiscWork(scene) },
};

/** Which points of which work. */
export interface Plan {
  readonly job: JobName;
  readonly seed: number;
  readonly from: number;
  readonly points: number;
  readonly say: (line: string) => void;
}

/** What has become of all points of a kind of work. */
export interface Result {
  /** How often each end was met. */
  readonly ends: ReadonlyMap<string, number>;
  /** What was wrong. */
  readonly faults: readonly string[];
  readonly msPerPoint: number;
}

/** The point of that number: a seed gives the same again. */
export function pointOf(job: JobName, seed: number, number: number): Point {
  const random = new Random(seed + 1_000_003 * JOBS.indexOf(job) + 7919 * number);
  const share = LATEST * random.fraction();
  return { number, ending: ENDINGS[number % ENDINGS.length], share, half: random.chance(0.5) ? 1 : 0 };
}

/** Goes through the points; after a fault with a new guest. */
export async function killAtPoints({ job, seed, from, points, say }: Plan): Promise<Result> {
  const ends = new Map<string, number>();
  const faults: string[] = [];
  const beganMs = performance.now();
  for (let number = from; number < from + points;) {
    try {
      await using scene = await KINDS[job].open();
      const work = KINDS[job].work(scene);
      // The first one takes longer.
      await onePoint(work, { number: 1_000_000, ending: undefined, share: 0, half: 0 }, 0);
      const usualMs = (await onePoint(work, { number: 1_000_001, ending: undefined, share: 0, half: 1 }, 0)).tookMs;
      for (; number < from + points; number++) {
        const point = pointOf(job, seed, number);
        const { told } = await onePoint(work, point, usualMs);
        const end = `${point.ending}: ${told}`;
        ends.set(end, (ends.get(end) ?? 0) + 1);
        say(`${job} ${number}: ${end}, killed after ${Math.round(usualMs * point.share)} of ${Math.round(usualMs)} ms`);
      }
      await work.finish();
    } catch (error) {
      faults.push(errorText(error));
      say(`fault: deno task living-kills --job ${job} --seed ${seed} --from ${number} --points 1: ${errorText(error)}`);
      number++;
    }
  }
  return { ends, faults, msPerPoint: (performance.now() - beganMs) / points };
}

/** The short form: a point of each of these kinds of work, on one disk. Rejects with the seed. */
export async function killAtFew(
  points: readonly (readonly [JobName, Ending])[],
  seed = Math.floor(Math.random() * 2 ** 31),
): Promise<void> {
  await using scene = await KINDS[points[0]![0]].open();
  let last: Work | undefined;
  let now = "";
  try {
    for (const [number, [job, ending]] of points.entries()) {
      const point = { ...pointOf(job, seed, number), ending };
      now = `${job}, ${ending} killed after ${Math.round(KINDS[job].usualMs * point.share)} ms (seed ${seed})`;
      last = KINDS[job].work(scene);
      await onePoint(last, point, KINDS[job].usualMs);
    }
    await last?.finish();
  } catch (error) {
    throw new Error(`${now}: ${errorText(error)}`, { cause: error });
  }
}

async function onePoint(
  work: Work,
  point: Point,
  usualMs: number,
): Promise<{ readonly told: string; readonly tookMs: number }> {
  const { scene } = work;
  await scene.startLoad(work.load(point));
  const sinceMs = Date.now();
  const begun = await work.begin(point);
  const beganMs = performance.now();
  begun.ended.catch(() => {}); // seen to below
  const took = begun.ended.then(() => performance.now() - beganMs);
  took.catch(() => {});
  if (point.ending === undefined) await begun.ended;
  else {
    await new Promise((resolve) => setTimeout(resolve, usualMs * point.share));
    await scene.kill(point.ending);
  }
  const end = await begun.ended;
  const job = work.kind === undefined ? undefined : await scene.jobSince(work.kind, sinceMs);
  await scene.goesOn();
  await work.rest();
  const told = await work.check({ ...end, point, job });
  await scene.assertTidy();
  return { told, tookMs: await took };
}
