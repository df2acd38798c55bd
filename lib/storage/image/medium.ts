/**
 * What storage does with files by system calls that Deno does not offer: it examines the medium, and serves a file
 * through io_uring. Interfaces only; ffi implements them.
 */

import type { Refusal } from "../../hypervisor.ts";
import type { CacheMode, DiscardProperties, DiskAttachment } from "../disk.ts";
import type { ImageFile } from "./file.ts";

/** By the ring, asynchronously; or by a call that returns when it is done, which is faster where it never waits. */
export type TransferRoute = "ring" | "call";

/** How discards reach the medium: a hole in a file, a command in the ring, or a call that blocks. */
export type DiscardRoute = "punch" | "command" | "call";

/** How engine `uring` is to use a file. Structured-cloneable. */
export interface UringRoutes {
  /** Past the page cache (O_DIRECT), where the memory's rule allows it. */
  readonly direct: boolean;
  /** Of transfers through the page cache. */
  readonly reads: TransferRoute;
  /** See {@linkcode UringRoutes.reads}. */
  readonly writes: TransferRoute;
  /** Absent: discards are refused. */
  readonly discards?: DiscardRoute;
}

/** What a reactor needs to serve a file through its ring. */
export interface UringAttachment extends DiskAttachment {
  /** The file, and how completed writes are kept. */
  readonly image: ImageFile;
  /** Found out when the disk was opened. */
  readonly routes: UringRoutes;
  /** The disk's open channels; see open_channels.ts. */
  readonly channels: SharedArrayBuffer;
}

/** What a file or block device turned out to be. */
export interface FileMedium {
  /** For engine `uring`. */
  readonly routes: UringRoutes;
  /** Of a block device; 512 for a file. */
  readonly logicalSectorBytes: number;
  /** What is written at once without reading first. */
  readonly physicalSectorBytes: number;
  /** For engine `uring`; absent: no discards. */
  readonly discard?: DiscardProperties;
  /** Why it cannot be reached past the page cache though that was asked for, as the end of a sentence. */
  readonly notDirect?: string;
}

/** The system calls as storage uses them. */
export interface NativeFiles {
  /** Why this process cannot use io_uring; undefined: it can. */
  uringRefusal(): Refusal | undefined;
  /** The module that opens channels through the io_uring of a reactor: that of a {@linkcode UringAttachment}. */
  readonly uringModule: string;
  /** Looks at a file or block device as it is to be served; changes nothing. Throws Error with the reason. */
  examine(path: string, readOnly: boolean, cache: CacheMode): FileMedium;
}
