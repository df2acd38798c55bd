/**
 * Contents of sectors: bytes that identify the write and the sector that they belong to, so that a sector read anywhere
 * shows which write it comes from, or that no single write made it.
 */

import { SECTOR_BYTES } from "../../lib/units.ts";

const WORDS = SECTOR_BYTES / 4;
const MAGIC = 0x51EC7043;
const STEP = 0x9E3779B1;

/** The sector holds the data of no single write. */
export const UNKNOWN_CONTENT = -1;

/** The sector is all zeroes, as after a discard. */
export const ZEROES = -2;

/** Fills a sector at `words[at]` with the data that write `id` has for sector `sector` of the disk. */
export function fillSector(words: Int32Array, at: number, sector: number, id: number): void {
  let x = start(sector, id);
  words[at] = MAGIC;
  words[at + 1] = id;
  words[at + 2] = sector;
  for (let i = at + 3; i < at + WORDS; i++) words[i] = x = (x + STEP) | 0;
}

/** The write whose data this sector holds, {@linkcode ZEROES} or {@linkcode UNKNOWN_CONTENT}. */
export function idOfSector(words: Int32Array, at: number, sector: number): number {
  const id = words[at + 1]!;
  let difference = (words[at]! ^ MAGIC) | (words[at + 2]! ^ sector);
  let x = start(sector, id);
  for (let i = at + 3; i < at + WORDS; i++) {
    x = (x + STEP) | 0;
    difference |= words[i]! ^ x;
  }
  if (difference === 0) return id;
  for (let i = at; i < at + WORDS; i++) if (words[i] !== 0) return UNKNOWN_CONTENT;
  return ZEROES;
}

/** The content in words. */
export function describeSector(words: Int32Array, at: number): string {
  if (idOfSector(words, at, 0) === ZEROES) return "zeroes";
  if (words[at] !== MAGIC) return "bytes of no write";
  const [id, sector] = [words[at + 1]!, words[at + 2]!];
  const whole = idOfSector(words, at, sector) === id ? "" : " (torn)";
  return `write ${id} of sector ${sector}${whole}`;
}

function start(sector: number, id: number): number {
  let x = Math.imul(sector ^ 0x5bd1e995, 0x85EBCA6B);
  x = Math.imul(x ^ (x >>> 15) ^ id, 0xC2B2AE35);
  return x ^ (x >>> 13);
}
