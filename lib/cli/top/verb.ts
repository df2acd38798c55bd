/**
 * `xenblk top`: what the live disks of this host do, as a table that is renewed in the terminal, or as text or JSON for
 * programs.
 */

import { SYSTEM_CLOCK } from "../../clock.ts";
import type { NativePlatform } from "../../host_platform.ts";
import type { DomId } from "../../hypervisor.ts";
import { listDomains } from "../../toolstack/domains.ts";
import { choice, decimal, defaulting, flag, integer, optional } from "../options.ts";
import type { Output } from "../output.ts";
import { type DrainSignals, signalStatus } from "../signals.ts";
import { type Context, defineVerb } from "../verb.ts";
import { type Sample, Sampler } from "./sampler.ts";
import { Screen } from "./screen.ts";
import { notesOf, RATE_COLUMNS, renderRates, rowsOf, screenLines, sorted, type TopView, viewAfter } from "./view.ts";

/** The first rates in a terminal come sooner. */
const FIRST_MS = 500;

/** The verb. */
export const top = defineVerb({
  name: "top",
  summary: "Show what live disks do, as iostat -x does",
  description:
    "Asks all serving processes of this host by their control sockets. The columns are those of `iostat -x`, with the " +
    "time that 99 of a hundred requests did not exceed (r_p99, w_p99); times are milliseconds, from taking a request " +
    "off the ring to answering it. Keys: q ends, s or an arrow sorts by another column, r reverses the order, g shows " +
    "guests or disks. Where standard input or output is no terminal, --batch holds.",
  operands: [],
  options: {
    "delay": defaulting({ ...decimal("Time between two readings", 0.1, 3600, "SECONDS"), short: "d" }, "2"),
    "guests": flag("Add up the disks of each guest; %util is that of the busiest", "g"),
    "sort": defaulting({ ...choice("Sort by this column", RATE_COLUMNS), placeholder: "COLUMN", short: "s" }, "util"),
    "reverse": flag("Smallest first", "r"),
    "batch": flag("Write each table below the one before, and read no keys", "b"),
    "iterations": optional({ ...integer("End after so many tables", 1, 1e9), short: "n" }, "endless"),
    "json": flag("Write one JSON object a line for each reading, with iostat's names; implies --batch", "J"),
  },
  permissions: "--allow-env --allow-ffi --allow-net, and --allow-read and --allow-write of /run/xenblk.",
  examples: ["xenblk top", "xenblk top --guests --sort w_await", "xenblk top --json --batch -n 1 -d 1"],
  async run({ host, signals, output, inform }, options): Promise<number> {
    const platform = await host.openNativePlatform();
    const sampler = new Sampler(() => guestNames(platform));
    const view = { sort: options.sort, reverse: options.reverse, byGuest: options.guests };
    const run = {
      output,
      inform,
      signals,
      sampler,
      delayMs: options.delay * 1000,
      most: options.iterations ?? Infinity,
    };
    const isTerminal = Deno.stdin.isTerminal() && output.columns !== Infinity;
    if (options.batch || options.json || !isTerminal) await writeBatches(run, view, options.json);
    else await showOnScreen(run, view);
    return signals.received === undefined ? 0 : signalStatus(signals.received);
  },
});

/** What both ways of showing need. */
interface Run {
  readonly output: Output;
  readonly inform: Context["inform"];
  readonly signals: DrainSignals;
  readonly sampler: Sampler;
  readonly delayMs: number;
  /** Tables after which it ends. */
  readonly most: number;
}

async function writeBatches(
  { output, inform, signals: { signal }, sampler, delayMs, most }: Run,
  view: TopView,
  json: boolean,
): Promise<void> {
  let said = "";
  const say = (sample: Sample): void => {
    const notes = notesOf(sample).join("; ");
    if (notes !== said && notes !== "") inform(notes);
    said = notes;
  };
  say(await sampler.sample());
  for (let count = 0; count < most && !output.failed; count++) {
    await SYSTEM_CLOCK.sleep(delayMs, signal);
    if (signal.aborted) return;
    const sample = await sampler.sample();
    say(sample);
    if (json) output.data(JSON.stringify(reportOf(sample, view)) + "\n");
    else output.data((count === 0 ? "" : "\n") + renderRates(rowsOf(sample, view), view, output.columns));
  }
}

/** A reading as `--json` prints it. */
function reportOf(sample: Sample, view: TopView): Readonly<Record<string, unknown>> {
  const rows = sorted(rowsOf(sample, view), view).map(({ rates, ...names }) => ({ ...names, ...rates }));
  return { timestamp: new Date().toISOString(), [view.byGuest ? "guests" : "disks"]: rows };
}

async function showOnScreen({ output, signals, sampler, delayMs, most }: Run, first: TopView): Promise<void> {
  const quit = new AbortController();
  const signal = AbortSignal.any([signals.signal, quit.signal]);
  let view = first;
  let sample = await sampler.sample();
  const draw = (): void => screen.draw(screenLines(sample, view, screen.size));
  const key = (name: string): void => {
    if (name === "q") quit.abort();
    view = viewAfter(view, name);
    if (!signal.aborted) draw();
  };
  using screen = new Screen(key, () => draw());
  draw();
  for (let count = 0; count < most && !output.failed; count++) {
    await SYSTEM_CLOCK.sleep(count === 0 ? Math.min(FIRST_MS, delayMs) : delayMs, signal);
    if (signal.aborted) return;
    sample = await sampler.sample();
    if (!signal.aborted) draw();
  }
}

/** Empty if xenstore cannot be asked: the disks have their domids. */
function guestNames(platform: NativePlatform): ReadonlyMap<DomId, string> {
  try {
    using store = platform.openXenstore();
    return new Map(listDomains(store).flatMap(({ domain, name }) => name === undefined ? [] : [[domain, name]]));
  } catch {
    return new Map();
  }
}
