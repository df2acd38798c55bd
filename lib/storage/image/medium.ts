/**
 * What storage does with files by system calls that Deno does not offer: it examines the medium, and serves a file
 * through io_uring. The interfaces, which ffi implements, and what the routes of transfers mean.
 */

import type { FileIdentity, Refusal } from "../../hypervisor.ts";
import type { DiscardProperties, DiskAttachment, MemoryRule } from "../disk.ts";
import type { DescriptorLease } from "./descriptors.ts";
import type { ImageFile } from "./file.ts";

/**
 * By the ring, asynchronously; or by a call that returns when it is done, which is faster where it never waits. `cached`:
 * by a call for one or two reads that need not wait (RWF_NOWAIT), else by the ring; for reads only.
 */
export type TransferRoute = "ring" | "call" | "cached";

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

/**
 * How transfers are made with memory of that rule. If memory is unmapped after each operation, the kernel must not refer
 * to it any longer then.
 */
export function transferRoute(kind: "reads" | "writes", routes: UringRoutes, rule: MemoryRule): TransferRoute {
  if (!rule.asynchronous) return "call";
  return routes.direct && rule.direct ? "ring" : routes[kind];
}

/** What a reactor needs to serve a file through its ring. */
export interface UringAttachment extends DiskAttachment {
  /** The file, and how completed writes are kept. */
  readonly image: ImageFile;
  /** Found out when the disk was opened. */
  readonly routes: UringRoutes;
  /** The disk's open channels; see open_channels.ts. */
  readonly channels: SharedArrayBuffer;
  /** The channel's own descriptor of the image; see descriptors.ts. */
  readonly descriptor: DescriptorLease;
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
  /** Why a reactor's ring must not serve it: a submission might wait for the storage. The end of a sentence. */
  readonly mayWait?: string;
  /** Where the host uses it, a part of it, or a loop device on it: mounted, or as swap space. */
  readonly uses: readonly HostUse[];
}

/** A use of an image by the host. */
export interface HostUse {
  /** `it is mounted at /srv`, the end of a sentence. */
  readonly what: string;
  /** The host may write to it. */
  readonly writes: boolean;
}

/** What an image is opened for. */
export interface ImageOptions {
  /** Without the right to write. */
  readonly readOnly: boolean;
  /** Find out whether it can be reached past the page cache. */
  readonly direct: boolean;
  /** Completed writes are to be durable. */
  readonly writeThrough: boolean;
}

/** An image that is open for looking at it. Disposing closes it, and all descriptors of its channels. */
export interface OpenedImage extends AsyncDisposable {
  /** Tells the file or device from others. */
  readonly identity: FileIdentity;
  /** As it was when it was opened. */
  readonly sizeBytes: number;
  /** Its first bytes. */
  readonly start: Uint8Array;
  /** Absent where Deno's file calls are all there is. */
  readonly medium?: FileMedium;
  /** See LockableImage. */
  readonly below?: readonly FileIdentity[];
  /** Absent where Deno's file calls are all there is. */
  readonly channels?: ImageChannels;
  /**
   * Bytes as it is now, or after a regular file was made as large as `growTo`. Rejects with {@linkcode
   * StorageSilentError}; with {@linkcode XenblkError} for a block device, and for a file that is larger than `growTo`; or
   * with Error and the reason.
   */
  size(growTo?: number): Promise<number>;
}

/** The descriptors of an image's channels. */
export interface ImageChannels {
  /** See descriptors.ts. */
  readonly descriptors: SharedArrayBuffer;
  /** A descriptor for one channel. Rejects with {@linkcode XenblkError}. */
  lease(): Promise<DescriptorLease>;
  /** Whether the file is not, or no longer, what its path names. Rejects as {@linkcode OpenedImage.size}. */
  isReplaced(): Promise<boolean>;
}

/** The system calls as storage uses them. None of them blocks its caller. */
export interface NativeFiles {
  /** Why this process cannot use io_uring; undefined: it can. */
  uringRefusal(): Refusal | undefined;
  /** The module that opens channels through the io_uring of a reactor: that of a {@linkcode UringAttachment}. */
  readonly uringModule: string;
  /** Starts a thread that opens images, if there is none: on a slow machine that takes seconds. Does not wait for it. */
  prepare(): void;
  /** This process ends next: what closes or unlocks an image may be left to the kernel, where it would take a thread. */
  leave(): void;
  /** Opens a file or block device and looks at it; changes nothing. Rejects with {@linkcode XenblkError}. */
  open(path: string, options: ImageOptions): Promise<OpenedImage>;
}
