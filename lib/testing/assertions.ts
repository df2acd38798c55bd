/**
 * Assertions about what is left, what a load found, how a request failed and what an image holds. Each throws an
 * AssertionError that says what is wrong.
 */

import { STATUS_ERROR } from "../blkif/abi.ts";
import type { DiskModel } from "../guest/disk_model.ts";
import type { LoadOutcome } from "../guest/load_types.ts";
import { verifyImageFile } from "../guest/verify_image.ts";
import { DriveError } from "./drive.ts";
import type { TestHost } from "./host.ts";

/** How long threads may take to end. */
const PATIENCE_MS = 5_000;
const LOOK_MS = 5;

/** An assertion of the kit does not hold. */
export class AssertionError extends Error {
  /** Tells it from other errors. */
  override readonly name = "AssertionError";
}

/**
 * Nothing is left on a host whose disks and services have ended and whose drives are disconnected: no grant is mapped or
 * given, no event channel is bound, no thread sleeps, and no image is open. Threads get `withinMs` to end, default 5 s.
 */
export async function assertNoLeak(host: TestHost, options: { readonly withinMs?: number } = {}): Promise<void> {
  for (const endMs = performance.now() + (options.withinMs ?? PATIENCE_MS);;) {
    const left = leftOn(host);
    if (left.length === 0) return;
    if (performance.now() > endMs) {
      const unended = host.unended.length === 0 ? "" : `; not ended: ${host.unended.join(", ")}`;
      throw new AssertionError(`the host leaks: ${left.join(", ")}${unended}`);
    }
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}

function leftOn(host: TestHost): string[] {
  const { mappedPages, grants, ports, channelSets, wakeWords } = host.holdings().usage;
  const counts = [
    [mappedPages, "mapped pages"],
    [grants, "grants"],
    [ports, "event channels"],
    [channelSets, "open sets of event channels"],
    [wakeWords, "threads"],
  ] as const;
  return [
    ...counts.filter(([count]) => count > 0).map(([count, what]) => `${count} ${what}`),
    ...openFilesOf(host.images).map((path) => `a descriptor of ${path}`),
  ];
}

/** Those of the files that this process has open. */
function openFilesOf(paths: readonly string[]): string[] {
  const known = new Set(paths.flatMap((path) => {
    try {
      return [Deno.realPathSync(path)];
    } catch {
      return []; // it was removed
    }
  }));
  if (known.size === 0) return [];
  return [...Deno.readDirSync("/proc/self/fd")].flatMap(({ name }) => {
    try {
      return [Deno.readLinkSync(`/proc/self/fd/${name}`)];
    } catch {
      return []; // it was closed meanwhile
    }
  }).filter((path) => known.has(path));
}

/** A load found nothing wrong: no request failed or was left, every byte was right, and the protocol was kept. */
export function assertClean(outcome: LoadOutcome): void {
  const { errors, errorsByKind, firstMiscompare, firstProtocolError, unanswered } = outcome;
  if (firstMiscompare !== undefined) {
    const { sector, expected, got } = firstMiscompare;
    throw new AssertionError(
      `sector ${sector} read back as ${got}, expected ${expected} (${outcome.miscompares} differ)`,
    );
  }
  if (firstProtocolError !== undefined) throw new AssertionError(`the protocol was broken: ${firstProtocolError}`);
  if (errors > 0) {
    const kinds = Object.entries(errorsByKind).map(([kind, count]) => `${count} ${kind.replace(" ", " (status ")})`);
    throw new AssertionError(`requests failed: ${kinds.join(", ")}`);
  }
  if (unanswered > 0) throw new AssertionError(`${unanswered} requests were never answered`);
}

/** The call of a drive fails with this status: -1, an I/O error, or -2, not supported. Resolves with its error. */
export async function assertIoError(call: Promise<unknown>, status: number = STATUS_ERROR): Promise<DriveError> {
  const error: unknown = await call.then(() => undefined, (error) => error);
  if (error instanceof DriveError && error.status === status) return error;
  const got = error === undefined ? "it succeeded" : error instanceof Error ? error.message : String(error);
  throw new AssertionError(`expected a response with status ${status}, but: ${got}`);
}

/**
 * An image file holds what the model of a drive says: what its loads have written. Sectors that only the drive's own
 * `write` has written are not compared; read those back. If the model knows no sector at all, the assertion fails. Throws
 * {@linkcode XenblkError} if the file cannot be read.
 */
export function assertImageEquals(path: string, model: DiskModel): void {
  const { verifiedSectors, miscompares, firstMiscompare } = verifyImageFile(path, model);
  if (firstMiscompare === undefined) {
    if (verifiedSectors > 0) return;
    throw new AssertionError(
      `nothing of ${path} was compared: the drive's model knows only what its loads have written`,
    );
  }
  const { sector, expected, got } = firstMiscompare;
  throw new AssertionError(`sector ${sector} of ${path} holds ${got}, expected ${expected} (${miscompares} differ)`);
}
