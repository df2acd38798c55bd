/**
 * Puts other images on top of disks that a daemon has open, such as overlays of snapshots. The daemon's record tells it in
 * three steps what it would have to open again: until the images' notes are written it opens those of before, and knows
 * that their write logs also belong to the others; then the other way round; at the end the others alone.
 */

import { XenblkError } from "../../errors.ts";
import type { ChangedNodes, DiskFile, LayerNodes, TopChange, TopSteps } from "../disk.ts";
import type { StorageDaemon } from "./daemon.ts";
import type { BlockGraph } from "./graph.ts";
import type { DiskPlan } from "./plan.ts";
import { type DiskRecord, type OtherImages, type RecordedFile, recordedFile } from "./record.ts";
import type { QemuRequest } from "./types.ts";

/** A disk as it is opened: what its process asks for when a daemon has to open it again. */
export interface OpenedDisk {
  request: QemuRequest;
  plan: DiskPlan;
}

/** What a change has to know of its disk. */
export interface ChangingDisk {
  /** The disk is open in the daemon, with the image that the change was planned for. */
  isAsPlanned(daemon: StorageDaemon): boolean;
  /** Called once the disk has the other image. */
  changed(): void;
}

/** One disk that changes. */
export class PlannedChange implements TopChange {
  constructor(
    readonly opened: OpenedDisk,
    readonly to: Readonly<OpenedDisk>,
    readonly nodes: ChangedNodes,
    readonly disk: ChangingDisk,
  ) {}

  get device(): string {
    return this.to.request.owner.device;
  }
}

/** The nodes of each image of a graph, by the path of its file. */
export function layersOf({ nodes }: BlockGraph): Readonly<Record<string, LayerNodes>> {
  const layers = nodes.flatMap((node): [string, LayerNodes][] => {
    const file = nodes.find((each) => each["node-name"] === node["file"]);
    const path = file?.["filename"];
    if (file === undefined || typeof path !== "string") return [];
    return [[path, { image: node["node-name"], file: file["node-name"] }]];
  });
  return Object.fromEntries(layers);
}

/** Carries a change out. Rejects with {@linkcode XenblkError}. */
export async function changeTops(
  daemon: StorageDaemon,
  disks: readonly TopChange[],
  steps: TopSteps,
): Promise<void> {
  const changes = disks.filter((disk) => disk instanceof PlannedChange);
  // What is noted beside an image that is not on top any more would lead past the later writes.
  for (const { disk, opened } of changes) if (!disk.isAsPlanned(daemon)) throw changedBefore(opened);
  const before = recordsOf(daemon, changes);
  const states = await Promise.all(changes.map((change, at) => stateOf(change, before[at]![1])));
  await daemon.writeDisks(states.map(({ begun }, at) => [before[at]![0], begun]));
  const restore = async (): Promise<void> => await daemon.writeDisks(before);
  await orElse(steps.prepare(), restore);
  await orElse(steps.note(), restore);
  const olds = changes.map(({ opened }) => ({ ...opened }));
  changes.forEach(({ opened, to }) => Object.assign(opened, to));
  const takeBack = async (): Promise<void> => {
    changes.forEach(({ opened }, at) => Object.assign(opened, olds[at]));
    try {
      await steps.undo();
    } finally {
      await restore();
    }
  };
  await orElse(daemon.writeDisks(states.map(({ noted }, at) => [before[at]![0], noted])), takeBack);
  const changed = (): void => changes.forEach(({ disk }) => disk.changed());
  // The next daemon opens the others.
  const refusal = await orElse(steps.carryOut(), () => daemon.kill().finally(changed));
  if (refusal !== undefined) {
    await takeBack();
    throw refusal;
  }
  changed();
  await daemon.writeDisks(states.map(({ done }, at) => [before[at]![0], done]));
}

/** The promise's value; if it rejects, `undo` is carried out first. */
async function orElse<T>(promise: Promise<T>, undo: () => Promise<void>): Promise<T> {
  try {
    return await promise;
  } catch (error) {
    await undo();
    throw error;
  }
}

function changedBefore({ request: { name } }: OpenedDisk): XenblkError {
  return new XenblkError(
    `Cannot change ${name}: something else has changed the disk's images meanwhile, or its daemon died`,
    {
      remedy: "see `xenblk snapshot list`, and repeat it",
    },
  );
}

function recordsOf(daemon: StorageDaemon, changes: readonly PlannedChange[]): (readonly [string, DiskRecord])[] {
  return changes.map(({ device, opened: { request: { name } } }) => {
    const disk = daemon.record.disks[device];
    if (disk !== undefined) return [device, disk];
    throw new XenblkError(`Cannot change ${name} together with other disks: another storage daemon has it`, {
      remedy: "do it for one disk at a time, or serve the guest's disks by one daemon (without --daemon-per-disk)",
    });
  });
}

/** The disk's record at the begin, once the note is written, and at the end. */
interface RecordStates {
  readonly begun: DiskRecord;
  readonly noted: DiskRecord;
  readonly done: DiskRecord;
}

async function stateOf({ to, nodes: change }: PlannedChange, before: DiskRecord): Promise<RecordStates> {
  const { plan } = to;
  const files = await Promise.all(plan.files.map((file) => recordedAgain(file, before.files)));
  const nodes = [...before.nodes, ...change.added];
  const live = { top: change.top, layers: change.layers };
  const { graph: _graph, other: _other, ...rest } = before;
  const after = {
    ...rest,
    name: to.request.name,
    plan: plan.identity,
    nodes,
    files: withReadOnly(files, before.files),
    live,
    ...(plan.graph === undefined ? {} : { graph: plan.graph }),
  };
  return {
    begun: { ...before, nodes, files: withReadOnly(before.files, files), other: otherOf(plan.identity, files) },
    noted: { ...after, other: otherOf(before.plan, before.files) },
    done: { ...after, nodes: nodes.filter((name) => !change.removed.includes(name)), files },
  };
}

/** What the daemon has open already is the file that it has opened, whatever is at the path by now. */
async function recordedAgain(file: DiskFile, before: readonly RecordedFile[]): Promise<RecordedFile> {
  const opened = before.find(({ path }) => path === file.path);
  return opened === undefined ? await recordedFile(file) : { ...opened, writable: file.writable };
}

function otherOf(plan: string, files: readonly RecordedFile[]): OtherImages {
  return { plan, files: files.filter(({ writable }) => writable) };
}

/** The files, and those of the others that are not among them, which the disk does not write to. */
function withReadOnly(files: readonly RecordedFile[], others: readonly RecordedFile[]): readonly RecordedFile[] {
  const more = others.filter(({ path }) => !files.some((file) => file.path === path));
  return [...files, ...more.map((file) => ({ ...file, writable: false }))];
}
