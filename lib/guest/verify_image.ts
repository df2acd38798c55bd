/**
 * Compares a whole image with the model after the loads have ended, or makes the image's present contents the expected
 * ones before they start. The image is read through an interface, so that it need not be a file.
 */

import { SECTOR_BYTES } from "../units.ts";
import { XenblkError } from "../errors.ts";
import { DIFFERS, type DiskModel, MATCHES, type Miscompare, SECTOR_WORDS } from "./disk_model.ts";

/** Reads an image. */
export interface ImageReader {
  /** Reads up to the buffer's length at the offset; returns the number of bytes, 0 at the end. */
  read(offsetBytes: number, into: Uint8Array): number;
}

/** The result of a comparison. */
export interface ImageVerdict {
  /** Sectors that are right. */
  readonly verifiedSectors: number;
  /** Sectors that the model knows nothing of. */
  readonly uncheckedSectors: number;
  /** Sectors that are wrong, and the first of them. */
  readonly miscompares: number;
  readonly firstMiscompare: Miscompare | undefined;
}

const CHUNK_SECTORS = 2048;

/** Compares all sectors with the model. Throws {@linkcode XenblkError} if the image is shorter than the disk. */
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

/** Makes the image's present contents the expected ones. */
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
