/**
 * What a plugin's process says of its disk, checked: it is not trusted, and its author makes mistakes.
 */

import { XenblkError } from "../../errors.ts";
import { printable } from "../../log.ts";
import { SECTOR_BYTES } from "../../units.ts";
import type { DiskProperties } from "../disk.ts";
import { deniedAccess } from "./denied.ts";

/** The answer to the command `open`. */
export type OpenAnswer =
  | {
    readonly ok: true;
    /** A text, here and below: what it has in place of a number. */
    readonly sizeBytes: number | string;
    /** Which methods it has. */
    readonly reads: boolean;
    readonly writes: boolean;
    readonly flushes: boolean;
    readonly discards: boolean;
    /** See DiskModuleDefinition and DiskMethods. */
    readonly survivesCrash?: boolean;
    readonly logicalSectorBytes?: number | string;
    readonly physicalSectorBytes?: number | string;
    readonly discardGranularityBytes?: number | string;
  }
  | {
    readonly ok: false;
    readonly stage: "import" | "export" | "open";
    readonly message: string;
    /** `file:///my_disk.ts:3:7`. */
    readonly place?: string;
  };

/** A plugin's disk. */
export interface PluginFacts {
  readonly properties: DiskProperties;
  /** Flushes are carried out by the plugin. */
  readonly flushes: boolean;
  /** Writes that were answered are not lost with the process. */
  readonly survivesCrash: boolean;
}

const DEFAULT_PHYSICAL_BYTES = 4096;
const MOST_PHYSICAL_BYTES = 2 ** 20;
/** Offsets in bytes must be whole numbers. */
const MOST_SIZE_BYTES = 2 ** 53 - SECTOR_BYTES;

/** Throws XenblkError with what is wrong, and where. `warn` gets what is not served. */
export function readFacts(
  answer: unknown,
  name: string,
  readOnly: boolean,
  warn: (message: string) => void,
): PluginFacts {
  if (typeof answer !== "object" || answer === null || !("ok" in answer)) {
    throw refuse(name, "its process answers nonsense");
  }
  const facts = answer as OpenAnswer;
  if (!facts.ok) throw notOpened(facts, name);
  if (!facts.reads) {
    throw refuse(name, "its disk has no method read", "have open return an object with sizeBytes and read");
  }
  const { logicalSectorBytes = SECTOR_BYTES } = facts;
  if (logicalSectorBytes !== SECTOR_BYTES && logicalSectorBytes !== 4096) {
    throw refuse(name, `its logicalSectorBytes is ${text(logicalSectorBytes)}`, "use 512 or 4096");
  }
  const { physicalSectorBytes = Math.max(DEFAULT_PHYSICAL_BYTES, logicalSectorBytes) } = facts;
  if (
    !isPowerOfTwo(physicalSectorBytes) || physicalSectorBytes < logicalSectorBytes ||
    physicalSectorBytes > MOST_PHYSICAL_BYTES
  ) {
    throw refuse(
      name,
      `its physicalSectorBytes is ${text(physicalSectorBytes)}`,
      `use a power of two from ${logicalSectorBytes} to ${MOST_PHYSICAL_BYTES}`,
    );
  }
  const sectors = sectorsOf(facts.sizeBytes, logicalSectorBytes, name, warn);
  const { discardGranularityBytes: granularityBytes = physicalSectorBytes } = facts;
  if (
    typeof granularityBytes !== "number" || !Number.isSafeInteger(granularityBytes) ||
    granularityBytes < SECTOR_BYTES || granularityBytes % SECTOR_BYTES > 0
  ) {
    throw refuse(
      name,
      `its discardGranularityBytes is ${text(granularityBytes)}`,
      `use a multiple of ${SECTOR_BYTES}`,
    );
  }
  const isReadOnly = readOnly || facts.writes !== true;
  const discard = { granularityBytes, alignmentBytes: 0, secure: false };
  const base = { sectors, logicalSectorBytes, physicalSectorBytes, readOnly: isReadOnly };
  return {
    properties: facts.discards === true && !isReadOnly ? { ...base, discard } : base,
    flushes: facts.flushes === true && !isReadOnly,
    survivesCrash: isReadOnly || (facts.survivesCrash ?? facts.flushes !== true) === true,
  };
}

/** The size in sectors of 512 bytes. Throws XenblkError if there is no such disk. */
export function sectorsOf(
  sizeBytes: unknown,
  logicalSectorBytes: number,
  name: string,
  warn: (message: string) => void,
): number {
  if (typeof sizeBytes !== "number" || !Number.isInteger(sizeBytes) || sizeBytes < logicalSectorBytes) {
    throw refuse(
      name,
      `its sizeBytes is ${text(sizeBytes)}`,
      `give the disk a size in bytes: a number from ${logicalSectorBytes} on`,
    );
  }
  if (sizeBytes > MOST_SIZE_BYTES) {
    throw refuse(name, `its sizeBytes is ${text(sizeBytes)}`, "use less than 2^53 bytes");
  }
  const rest = sizeBytes % logicalSectorBytes;
  if (rest > 0) {
    warn(`${name}: its last ${rest} bytes are not served: its size is not a multiple of ${logicalSectorBytes}`);
  }
  return (sizeBytes - rest) / SECTOR_BYTES;
}

function remedyFor(why: string): string | undefined {
  return /allocation failed/.test(why) ? "allow it more memory with --plugin-memory" : undefined;
}

function notOpened({ stage, message, place }: OpenAnswer & { readonly ok: false }, name: string): XenblkError {
  const where = typeof place === "string" ? ` (${printable(place)})` : "";
  const said = typeof message === "string" ? message : "it gives no reason";
  const denied = deniedAccess(said);
  const why = `${oneLine(denied?.message ?? said)}${where}`;
  const remedy = denied && printable(denied.remedy);
  switch (stage) {
    case "import":
      return refuse(
        name,
        `its module cannot be imported: ${why}`,
        remedy ?? "correct the module; `deno check` finds most mistakes",
      );
    case "open":
      return refuse(name, `its open failed: ${why}`, remedy ?? remedyFor(why));
    default:
      return refuse(name, "its module exports no disk", "write `export default defineDisk({ open: ... })`");
  }
}

/** Without Deno's picture of the place, which is named anyway. */
function oneLine(message: string): string {
  const lines = message.split("\n").filter((line) => !/^\s*(?:\d* *\||at )/.test(line));
  return printable(lines.join(" ").replace(/\.$/, ""));
}

function refuse(name: string, why: string, remedy?: string): XenblkError {
  return new XenblkError(`Cannot open ${name}: ${why}`, remedy === undefined ? {} : { remedy });
}

/** A value from JSON, or none. An object may be too deep for any text of it. */
function text(value: unknown): string {
  if (typeof value === "object" && value !== null) return "an object";
  return typeof value === "string" ? printable(JSON.stringify(value)) : String(value);
}

function isPowerOfTwo(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value > 0 && Math.log2(value) % 1 === 0;
}
