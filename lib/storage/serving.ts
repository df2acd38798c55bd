/**
 * Decides how a file is served: by which engine and in which cache mode. Refuses what this machine cannot do, and warns
 * where a file is served in another way than was asked for. It opens nothing.
 */

import { XenblkError } from "../errors.ts";
import type { Refusal } from "../hypervisor.ts";
import type { CacheMode, DiskRequest } from "./disk.ts";
import type { FileMedium, ImageOptions, NativeFiles } from "./image/medium.ts";

/** What the decision is based on. */
export interface ServingContext {
  /** Absent: Deno's file calls are all there is. */
  readonly native?: NativeFiles;
  /** Gets messages for the operator. */
  readonly warn?: (message: string) => void;
}

/** How a file is served. */
export interface Serving {
  readonly engine: "uring" | "file";
  readonly cache: CacheMode;
  /** Absent where Deno's file calls are all there is. */
  readonly medium?: FileMedium;
}

/** What has to be known of the medium to decide. */
export function examinationFor({ readOnly, cache, directIoSafe, engine }: DiskRequest): ImageOptions {
  const direct = engine !== "file" && (cache ?? (directIoSafe === true ? "none" : "writeback")) === "none";
  return { readOnly, direct, writeThrough: cache === "writethrough" };
}

/** Throws {@linkcode XenblkError} if what the request asks for cannot be had. `medium`: absent as in {@linkcode Serving}. */
export function decideServing(request: DiskRequest, context: ServingContext, medium?: FileMedium): Serving {
  const name = `image ${request.target}`;
  const { engine, refusal } = decideEngine(request, name, context, medium);
  const wanted = request.cache ?? (request.directIoSafe === true && engine === "uring" ? "none" : "writeback");
  if (wanted === "none" && engine === "file") throw noDirectIo(name, refusal);
  const cache = wanted === "none" && medium?.notDirect !== undefined ? "writeback" : wanted;
  if (cache !== wanted && request.cache !== undefined) {
    context.warn?.(`${name}: cache writeback in place of none: ${medium!.notDirect}`);
  }
  if (cache === "unsafe") context.warn?.(`${name}: cache unsafe: a crash of this machine loses or damages its data`);
  return { engine, cache, ...(medium === undefined ? {} : { medium }) };
}

/** The engine; and why it is not uring, unless file was asked for by its name. */
function decideEngine(
  request: DiskRequest,
  name: string,
  { native, warn }: ServingContext,
  medium: FileMedium | undefined,
): { readonly engine: "uring" | "file"; readonly refusal?: Refusal } {
  if (request.engine === "file") return { engine: "file" };
  const mayWait = medium?.mayWait;
  const refusal = native === undefined
    ? NO_RING_IN_SIMULATION
    : mayWait === undefined
    ? native.uringRefusal()
    : { reason: mayWait, remedy: "put the image on a local file system or a block device" };
  if (refusal === undefined) return { engine: "uring" };
  if (request.engine === "uring") throw noUring(name, refusal);
  if (native !== undefined) warn?.(`${name}: ${inPlaceOfUring(refusal)}`);
  return { engine: "file", refusal };
}

const NO_RING_IN_SIMULATION: Refusal = {
  reason: "it works on real memory only, not in a simulation",
  remedy: "leave it at auto",
};

/** Engine uring was asked for by its name and cannot be had. `name` is the image's, as it stands in messages. */
export function noUring(name: string, { reason, remedy }: Refusal): XenblkError {
  return new XenblkError(`Cannot open ${name}: engine uring cannot be used: ${reason}`, {
    remedy: `${remedy}; or use engine auto or file`,
  });
}

/** What is said of an image that engine file serves because of that. */
export function inPlaceOfUring({ reason, remedy }: Refusal): string {
  return `engine file in place of uring: ${reason}; ${remedy}`;
}

function noDirectIo(name: string, refusal: Refusal | undefined): XenblkError {
  return new XenblkError(
    `Cannot open ${name}: cache none needs engine uring${refusal === undefined ? "" : `, and ${refusal.reason}`}`,
    { kind: "usage", remedy: `use another cache mode, or ${refusal === undefined ? "engine uring" : refusal.remedy}` },
  );
}
