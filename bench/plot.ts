/**
 * IOPS against requests in flight as an SVG picture, one panel per storage. This module chooses the curves;
 * plot/draw.ts draws them, in its own process.
 */

import { XenblkError } from "../lib/errors.ts";
import { isOnCurve, type StorageName, STORAGES, type SubjectName } from "./cases.ts";
import { type Machine, machineLine } from "./machine.ts";
import { type Measurement, medianSample } from "./samples.ts";

/** A picture: line charts side by side, with logarithmic x axes. */
export interface Picture {
  readonly title: string;
  /** Text in small print, as lines. */
  readonly subtitle: string;
  /** The title of the x axes. */
  readonly xName: string;
  readonly panels: readonly Panel[];
}

/** One chart. */
export interface Panel {
  readonly title: string;
  readonly lines: readonly PlotLine[];
}

/** One line of a chart. */
export interface PlotLine {
  readonly name: string;
  /** A CSS color. */
  readonly colour: string;
  readonly points: readonly CurvePoint[];
}

/** One point: requests in flight, operations per second. */
export type CurvePoint = readonly [depth: number, iops: number];

/** The source of the picture. */
export interface PlotData {
  readonly machine: Machine;
  readonly measurements: readonly Measurement[];
  readonly storages: Readonly<Partial<Record<StorageName, string>>>;
}

const LINES: readonly { readonly subject: SubjectName; readonly name: string; readonly colour: string }[] = [
  { subject: "xenblk", name: "xenblk", colour: "#1f6feb" },
  { subject: "qemu", name: "QEMU qdisk", colour: "#d1242f" },
  { subject: "fio", name: "fio, no guest", colour: "#6e7781" },
];
/** Characters that fit one panel's width in small print. */
const CHARACTERS_PER_PANEL = 60;

/** The curve of a subject on a storage, by increasing depth. */
export function curve(
  measurements: readonly Measurement[],
  storage: StorageName,
  subject: SubjectName,
): CurvePoint[] {
  return measurements
    .filter((one) => one.storage === storage && one.subject === subject && isOnCurve(one.case))
    .map((one): CurvePoint => [one.case.depth, Math.round(medianSample(one).iops)])
    .sort(([a], [b]) => a - b);
}

/** The picture, or undefined if this backend has no curve. */
export function pictureOf({ machine, measurements, storages }: PlotData): Picture | undefined {
  const shown = STORAGES.filter((storage) => curve(measurements, storage, "xenblk").length > 0);
  if (shown.length === 0) return undefined;
  const panels = shown.map((storage) => ({
    title: storages[storage] ?? storage,
    lines: LINES.flatMap(({ subject, name, colour }) => {
      const points = curve(measurements, storage, subject);
      return points.length === 0 ? [] : [{ name, colour, points }];
    }),
  }));
  const subtitle = wrapAtCommas(machineLine(machine), CHARACTERS_PER_PANEL * panels.length);
  return {
    title: "4 KiB random reads: IOPS against requests in flight",
    subtitle,
    xName: "requests in flight",
    panels,
  };
}

/** Writes the picture to a file. Throws {@linkcode XenblkError} if it is empty or cannot be drawn. */
export async function writePlot(path: string, data: PlotData): Promise<void> {
  const picture = pictureOf(data);
  if (picture === undefined) throw new XenblkError(`Cannot write ${path}: no random reads of 4 KiB were measured`);
  const directory = new URL("./plot/", import.meta.url).pathname;
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-check", "--frozen", "--config", `${directory}deno.json`, "--allow-env", `${directory}draw.ts`],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const [{ success, stdout, stderr }] = await Promise.all([
    child.output(),
    new Blob([JSON.stringify(picture)]).stream().pipeTo(child.stdin),
  ]);
  if (!success) throw new XenblkError(`Cannot draw ${path}: ${new TextDecoder().decode(stderr).trim()}`);
  await Deno.writeFile(path, stdout);
}

/** Breaks a list at its commas into lines of at most `characters`; a longer part gets its own line. */
export function wrapAtCommas(list: string, characters: number): string {
  return list.split(", ").reduce((text, part) => {
    const lastLine = text.slice(text.lastIndexOf("\n") + 1);
    return lastLine.length + part.length + 2 > characters ? `${text},\n${part}` : `${text}, ${part}`;
  });
}
