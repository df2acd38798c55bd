/**
 * The corpus: minimised finds of the fuzzers, one JSON file each, replayed by the gate for ever. Only what once failed
 * gets in. It must not know how finds are made.
 */

import type { StructuredFind } from "./structured.ts";
import type { WireRequest } from "../hardening/wire.ts";

const DIRECTORY = new URL("./corpus/", import.meta.url);
const WIDE_FIELDS = new Set(["id", "sector", "sectorCount"]);

/** A find as text; numbers of 64 bits are decimal strings. */
export function formatFind(find: StructuredFind): string {
  return JSON.stringify(find, (_, value) => typeof value === "bigint" ? value.toString() : value, 2) + "\n";
}

/** The find that a text holds. */
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

/** For people: how many requests a find needs. */
export function countRequests(batches: readonly (readonly WireRequest[])[]): number {
  return batches.reduce((sum, batch) => sum + batch.length, 0);
}
