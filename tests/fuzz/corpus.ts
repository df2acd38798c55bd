/**
 * The corpus: minimised failures that the structured fuzzer once found, one JSON file each. The gate replays all of
 * them.
 */

import type { StructuredFind } from "./structured.ts";
import type { WireRequest } from "../hardening/wire.ts";

const DIRECTORY = new URL("./corpus/", import.meta.url);
const WIDE_FIELDS = new Set(["id", "sector", "sectorCount"]);

/** A find as JSON; 64-bit numbers are decimal strings. */
export function formatFind(find: StructuredFind): string {
  return JSON.stringify(find, (_, value) => typeof value === "bigint" ? value.toString() : value, 2) + "\n";
}

/** Parses a find. */
export function parseFind(text: string): StructuredFind {
  return JSON.parse(text, (name, value) => WIDE_FIELDS.has(name) ? BigInt(value) : value);
}

/** All finds, by file name. */
export function corpus(): [name: string, find: StructuredFind][] {
  return [...Deno.readDirSync(DIRECTORY)].filter(({ name }) => name.endsWith(".json")).map(({ name }) => [
    name,
    parseFind(Deno.readTextFileSync(new URL(name, DIRECTORY))),
  ]);
}

/** Number of requests of a find. */
export function countRequests(batches: readonly (readonly WireRequest[])[]): number {
  return batches.reduce((sum, batch) => sum + batch.length, 0);
}
