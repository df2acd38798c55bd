/**
 * Decides how a file is served: by which engine and in which cache mode. Refuses what this machine cannot do, and warns
 * where a file is served in another way than was asked for. It opens nothing.
 */

import { XenblkError } from "../errors.ts";
import type { Refusal } from "../hypervisor.ts";
import type { CacheMode, DiskRequest } from "./disk.ts";
import type { FileMedium, NativeFiles } from "./image/medium.ts";

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

/** Throws {@linkcode XenblkError} if what the request asks for cannot be had. */
export function decideServing(request: DiskRequest, context: ServingContext): Serving {
  const { target: path, readOnly } = request;
  const name = `image ${path}`;
  const engine = decideEngine(request, name, context);
  const wanted = request.cache ?? (request.directIoSafe === true && engine === "uring" ? "none" : "writeback");
  if (wanted === "none" && engine === "file") throw noDirectIo(name, request, context.native);
  const medium = context.native === undefined ? undefined : examine(name, context.native, path, readOnly, wanted);
  const cache = wanted === "none" && medium?.notDirect !== undefined ? "writeback" : wanted;
  if (cache !== wanted && request.cache !== undefined) {
    context.warn?.(`${name}: cache writeback in place of none: ${medium!.notDirect}`);
  }
  if (cache === "unsafe") context.warn?.(`${name}: cache unsafe: a crash of this machine loses or damages its data`);
  return { engine, cache, ...(medium === undefined ? {} : { medium }) };
}

function decideEngine(request: DiskRequest, name: string, { native, warn }: ServingContext): "uring" | "file" {
  if (request.engine === "file") return "file";
  const refusal = native === undefined ? NO_RING_IN_SIMULATION : native.uringRefusal();
  if (refusal === undefined) return "uring";
  if (request.engine === "uring") throw noUring(name, refusal);
  if (native !== undefined) warn?.(`${name}: ${inPlaceOfUring(refusal)}`);
  return "file";
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

function noDirectIo(name: string, request: DiskRequest, native: NativeFiles | undefined): XenblkError {
  const refusal = request.engine === "file" ? undefined : native?.uringRefusal();
  return new XenblkError(
    `Cannot open ${name}: cache none needs engine uring${refusal === undefined ? "" : `, and ${refusal.reason}`}`,
    { kind: "usage", remedy: `use another cache mode, or ${refusal === undefined ? "engine uring" : refusal.remedy}` },
  );
}

function examine(name: string, native: NativeFiles, path: string, readOnly: boolean, cache: CacheMode): FileMedium {
  try {
    return native.examine(path, readOnly, cache);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new XenblkError(`Cannot open ${name}: ${reason}`, { cause: error });
  }
}
