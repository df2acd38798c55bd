/**
 * Imports the module of a plugin and opens its disk, in the plugin's process: what is wrong with the module becomes an
 * answer with a stage, the plugin's own message, and the place of the error.
 */

import { errorText } from "../../lib/errors.ts";
import { type DiskMethods, type DiskModuleContext, isDefinedDisk } from "../../lib/storage/plugin/disk_methods.ts";
import type { OpenAnswer } from "../../lib/storage/plugin/facts.ts";

/** Of a message; there may be a whole page in it. */
export const MOST_CHARACTERS = 1000;
/** Of a value that should be a number. */
const MOST_VALUE_CHARACTERS = 40;

/** What became of it. */
export interface OpenedModule {
  readonly answer: OpenAnswer;
  /** Absent: it could not be opened. */
  readonly disk?: DiskMethods;
}

/** Never rejects. `module` is an absolute path. */
export async function openModule(module: string, target: string, context: DiskModuleContext): Promise<OpenedModule> {
  let stage: "import" | "open" = "import";
  try {
    const url = new URL(`file://${encodeURI(module).replaceAll("?", "%3F").replaceAll("#", "%23")}`);
    const exported = (await import(url.href)).default;
    if (!isDefinedDisk(exported)) return { answer: { ok: false, stage: "export", message: "" } };
    stage = "open";
    const disk: unknown = await exported.open(target, context);
    if (!isObject(disk)) {
      return { answer: { ok: false, stage, message: `it returned ${sendable(disk)}, not a disk` } };
    }
    return { disk, answer: factsOf(disk, exported.survivesCrash) };
  } catch (error) {
    return { answer: { ok: false, stage, message: errorText(error).slice(0, MOST_CHARACTERS), ...placeOf(error) } };
  }
}

/** The types say so, which nobody may have checked. */
function isObject(disk: unknown): disk is DiskMethods {
  return typeof disk === "object" && disk !== null;
}

function factsOf(disk: DiskMethods, survivesCrash: boolean | undefined): OpenAnswer {
  const has = (name: keyof DiskMethods): boolean => typeof disk[name] === "function";
  const { sizeBytes, logicalSectorBytes, physicalSectorBytes, discardGranularityBytes } = disk;
  return {
    ok: true,
    sizeBytes: sendable(sizeBytes),
    reads: has("read"),
    writes: has("write"),
    flushes: has("flush"),
    discards: has("discard"),
    ...(survivesCrash === undefined ? {} : { survivesCrash: survivesCrash === true }),
    ...(logicalSectorBytes === undefined ? {} : { logicalSectorBytes: sendable(logicalSectorBytes) }),
    ...(physicalSectorBytes === undefined ? {} : { physicalSectorBytes: sendable(physicalSectorBytes) }),
    ...(discardGranularityBytes === undefined ? {} : { discardGranularityBytes: sendable(discardGranularityBytes) }),
  };
}

/** What the types call a number, as JSON can have it: of anything else its text, which is then refused with that. */
export function sendable(value: unknown): number | string {
  if (typeof value === "number" && Number.isFinite(value)) return value;
  const text = typeof value === "bigint" ? `${value}n` : errorText(value); // of anything
  return text.slice(0, MOST_VALUE_CHARACTERS);
}

/** The first place of its stack. */
function placeOf(error: unknown): { readonly place?: string } {
  const place = error instanceof Error ? /((?:file|https?):\S+?:\d+:\d+)\)?$/m.exec(error.stack ?? "")?.[1] : undefined;
  return place === undefined ? {} : { place };
}
