/**
 * The images of a dry run: the given one, looked at before anything is served, or new ones that are removed again. It
 * must not know guests.
 */

import { openDisk } from "../storage/open.ts";
import { parseImage } from "../storage/spec.ts";
import type { GuestImage } from "./dry_run_guest.ts";

/** What is served, and for how long it exists. */
export interface DryRunImages extends Disposable {
  /** One a guest. */
  readonly images: readonly GuestImage[];
  /** For people: the first image. */
  readonly description: string;
  readonly sizeBytes: number;
}

const SECTOR_BYTES = 512;

/** The image that the user named. Rejects with XenblkError if it cannot be served. */
export async function givenImage(name: string, write: boolean): Promise<DryRunImages> {
  const { format, target } = parseImage(name);
  await using disk = await openDisk({ format, target, readOnly: !write, engine: "auto" });
  const isFile = format === "raw";
  const image: GuestImage = {
    params: `${format}:${isFile ? Deno.realPathSync(target) : target}`,
    path: isFile ? target : undefined,
    readOnly: !write,
    baseline: isFile ? "anything" : baselineOf(format),
  };
  return {
    images: [image],
    description: `${format}:${target}`,
    sizeBytes: disk.properties.sectors * SECTOR_BYTES,
    [Symbol.dispose]: () => {},
  };
}

/** New images of zeroes: files in the system's temporary directory, memory, or nothing at all. */
export function newImages(engine: "file" | "memory" | "null", sizeBytes: number, count: number): DryRunImages {
  using undo = new DisposableStack();
  const images = Array.from({ length: count }, (): GuestImage => {
    const common = { readOnly: false, baseline: baselineOf(engine) } as const;
    if (engine !== "file") return { ...common, params: `${engine}:${sizeBytes}`, path: undefined };
    const path = undo.adopt(Deno.makeTempFileSync({ prefix: "xenblk-dry-run-", suffix: ".img" }), Deno.removeSync);
    Deno.truncateSync(path, sizeBytes);
    return { ...common, params: `raw:${path}`, path };
  });
  const owned = undo.move();
  return { images, description: `new ${images[0]!.params}`, sizeBytes, [Symbol.dispose]: () => owned.dispose() };
}

/** The null disk keeps nothing. */
function baselineOf(format: string): GuestImage["baseline"] {
  return format === "null" ? undefined : "zeroes";
}
