/**
 * Checks an image's bytes against what the loads wrote, after they ended, and takes an image's present bytes for what
 * a load must find. It reads through a small interface and must not know where an image is kept.
 */

import { SECTOR_BYTES } from "../units.ts";
import { XenblkError } from "../errors.ts";
import { DIFFERS, type DiskModel, MATCHES, type Miscompare, SECTOR_WORDS } from "./disk_model.ts";

/** Bytes of an image. */
export interface ImageReader {
  /** Reads at a place into the buffer; returns how many bytes, 0 at the end. */
  read(offsetBytes: number, into: Uint8Array): number;
}

/** What an image was found to hold. */
export interface ImageVerdict {
  /** Sectors that hold what they must. */
  readonly verifiedSectors: number;
  /** Sectors of which nothing is known. */
  readonly uncheckedSectors: number;
  readonly miscompares: number;
  readonly firstMiscompare: Miscompare | undefined;
}

const CHUNK_SECTORS = 2048;

/** Compares all sectors with the model. Throws {@linkcode XenblkError} if the image is shorter than the disk was. */
export function verifyImage(image: ImageReader, model: DiskModel): ImageVerdict {
  let verifiedSectors = 0;
  let uncheckedSectors = 0;
  let miscompares = 0;
  let firstMiscompare: Miscompare | undefined;
  eachSector(image, model, (words, at, sector) => {
    const result = model.check(words, at, sector);
    if (result === MATCHES) verifiedSectors++;
    else if (result === DIFFERS) {
      miscompares++;
      firstMiscompare ??= model.describe(words, at, sector);
    } else uncheckedSectors++;
  });
  return { verifiedSectors, uncheckedSectors, miscompares, firstMiscompare };
}

/** As {@linkcode verifyImage}, for an image in a file. */
export function verifyImageFile(path: string, model: DiskModel): ImageVerdict {
  using file = Deno.openSync(path);
  return verifyImage(fileReader(file), model);
}

/** Makes the model expect what the image holds now, wherever no load has written. */
export function rememberImage(image: ImageReader, model: DiskModel): void {
  eachSector(image, model, (words, at, sector) => model.remember(words, at, sector));
}

/** As {@linkcode rememberImage}, for an image in a file. */
export function rememberImageFile(path: string, model: DiskModel): void {
  using file = Deno.openSync(path);
  rememberImage(fileReader(file), model);
}

function fileReader(file: Deno.FsFile): ImageReader {
  return {
    read(offsetBytes: number, into: Uint8Array): number {
      file.seekSync(offsetBytes, Deno.SeekMode.Start);
      return file.readSync(into) ?? 0;
    },
  };
}

function eachSector(
  image: ImageReader,
  model: DiskModel,
  visit: (words: Uint32Array, at: number, sector: number) => void,
): void {
  const words = new Uint32Array(CHUNK_SECTORS * SECTOR_WORDS);
  const bytes = new Uint8Array(words.buffer);
  for (let sector = 0; sector < model.sectors; sector += CHUNK_SECTORS) {
    const count = Math.min(CHUNK_SECTORS, model.sectors - sector);
    readWhole(image, sector * SECTOR_BYTES, bytes.subarray(0, count * SECTOR_BYTES));
    for (let i = 0; i < count; i++) visit(words, i * SECTOR_WORDS, sector + i);
  }
}

function readWhole(image: ImageReader, offsetBytes: number, into: Uint8Array): void {
  for (let done = 0; done < into.length;) {
    const read = image.read(offsetBytes + done, into.subarray(done));
    if (read === 0) throw new XenblkError(`Cannot verify the image: it ends at byte ${offsetBytes + done}`);
    done += read;
  }
}
