/**
 * What the rest of the backend uses of storage: a Disk that was opened, the I/O channel of one ring to it, and the module
 * that opens the channel in the ring's thread. Engines and filters implement the channel and the module; so can a module
 * outside this project.
 */

import type { LockableImage, Memory, MemorySpace, Parker, Platform, Refusal, WakeToken } from "../hypervisor.ts";

/**
 * Which engine a {@linkcode DiskRequest} asks for. `auto` takes the fastest that this machine allows and the format needs.
 * `qemu` is QEMU's storage daemon.
 */
export type EngineName = "auto" | "uring" | "file" | "qemu" | "memory" | "null";

/**
 * What stands between a completed write and the medium, as QEMU names it. `none`: past the page cache, flushes make
 * durable. `writeback`: through the page cache, flushes make durable. `writethrough`: a completed write is durable.
 * `unsafe`: through the page cache, flushes are ignored.
 */
export type CacheMode = "none" | "writeback" | "writethrough" | "unsafe";

/** The guest and the device that a disk is for. */
export interface DiskOwner {
  /** The guest's domid. */
  readonly guest: number;
  /** The guest's UUID, as in its node `vm`; tells it from an earlier guest with the same domid. Absent: not known. */
  readonly uuid?: string;
  /** The device's label, unique on this host: kind, domid and virtual device, `vbd3/5/51712`. */
  readonly device: string;
}

/** How a disk is to be opened. */
export interface DiskRequest {
  /** `raw`, `qcow2`, `memory`, ..., or another spelling that formats.ts knows. */
  readonly format: string;
  /** What follows the format: a path, the URI of a store, a size for memory and null, JSON for `json`. */
  readonly target: string;
  /** Of an encrypted image: the absolute path of the file with its passphrase, or the name of a systemd credential. */
  readonly passphraseFile?: string;
  /** Of a qcow2 image: the name or the ID of the snapshot inside it that is to be read. */
  readonly snapshot?: string;
  /**
   * Patterns of what may be named beside local files (`--allow-image`), see qemu/allow.ts. Absent: the caller vouches for
   * the image's name, and the image's header may name files in its own directory.
   */
  readonly allowImages?: readonly string[];
  /** Whose disk it is; storage daemons ask for it. */
  readonly owner?: DiskOwner;
  /** No other disk of the owner's device is open: what a storage daemon still has of one, since a crash, ends. */
  readonly sole?: boolean;
  /**
   * Aborted: nobody waits for the disk any more. A storage daemon must not begin to open it then: its device may be about
   * to be opened with another image.
   */
  readonly signal?: AbortSignal;
  /** Opened for reading only. */
  readonly readOnly: boolean;
  /** Must fit the format, unless it is `auto`. */
  readonly engine: EngineName;
  /** Absent: `none` where the toolstack vouches for it (below) and the engine can, else `writeback`. */
  readonly cache?: CacheMode;
  /** Others may use it at the same time (mode `w!`): a block device that the host has mounted is opened nevertheless. */
  readonly shared?: boolean;
  /** Notes of snapshots have led here from the image that was asked for. */
  readonly led?: boolean;
  /** The toolstack vouches that I/O past the page cache, right into the guest's pages, is safe on this storage. */
  readonly directIoSafe?: boolean;
}

/** How a disk takes discards: it frees bytes below, which read as anything (mostly zeroes) afterwards. */
export interface DiscardProperties {
  /** Smallest range that can be freed, in bytes; smaller discards may do nothing. A multiple of 512. */
  readonly granularityBytes: number;
  /** Where the first granule begins. */
  readonly alignmentBytes: number;
  /** Discarded data can be made unrecoverable on request. */
  readonly secure: boolean;
}

/** The most bytes of buffers that one channel's operations occupy at a time. */
export const MOST_BUFFER_BYTES: number = 8 * 2 ** 20;

/** The properties of a disk that decide what the frontend sees, and how it is served. */
export interface DiskProperties {
  /** Size in 512-byte sectors, whatever the logical sector size. */
  readonly sectors: number;
  /** Smallest unit of I/O; 512 unless asked otherwise. */
  readonly logicalSectorBytes: number;
  /** Smallest unit that is cheap to write. */
  readonly physicalSectorBytes: number;
  /** Writes are refused before they reach a channel. */
  readonly readOnly: boolean;
  /** Absent: the disk takes no discards. */
  readonly discard?: DiscardProperties;
  /** How the file is served; absent where there is no file. */
  readonly cache?: CacheMode;
  /**
   * Why only grant mode `copy` can serve it, as the end of a sentence: data must lie in memory that the disk's module
   * provides ({@linkcode DiskModule.openMemory}). Absent: any memory will do.
   */
  readonly copyOnly?: string;
  /** Most channels at a time, so the most rings of the device. Absent: any number. */
  readonly mostChannels?: number;
}

/**
 * What a thread needs to open a channel to the disk: the module that does so (see {@linkcode DiskModule}), and whatever
 * that module needs. Structured-cloneable. A filter names what is behind it: `{ module, options, inner }`.
 */
export interface DiskAttachment {
  /** The module's absolute URL, for instance by `import.meta.url`. */
  readonly module: string;
  /** The disk, or the disks, behind a filter: their modules are loaded too. */
  readonly inner?: DiskAttachment | readonly DiskAttachment[];
  /** The module's own. */
  readonly [detail: string]: unknown;
}

/** What a module that a {@linkcode DiskAttachment} names exports. */
export interface DiskModule {
  /**
   * Opens a channel in the calling thread, which alone uses and disposes it. It must not wait: it runs in the thread
   * that serves the rings. What it throws is the reason why the ring cannot be connected.
   */
  openChannel(attachment: DiskAttachment, options: ChannelOptions, context: ChannelContext): IoChannel;
  /**
   * Where the buffers of one channel must lie, opened before the channel and disposed after it, in its thread. It allocates
   * once, at most {@linkcode MOST_BUFFER_BYTES}. It must not wait, either. Absent: they may lie anywhere.
   */
  openMemory?(attachment: DiskAttachment, context: ChannelContext): BufferSpace;
}

/** Memory for the buffers of one channel. Its memory must be disposed before it. */
export interface BufferSpace extends MemorySpace, Disposable {}

/**
 * A disk that the control plane opened. Closing waits until no engine thread has the image open, but not for ever: if the
 * storage does not answer, it warns, resolves, and the image is closed as soon as the storage lets go of it.
 */
export interface Disk extends AsyncDisposable {
  /** Fixed while the disk is open, except for the size that {@linkcode grow} finds. */
  readonly properties: DiskProperties;
  /** For people: `raw:/path (1.0 GiB, read-only, engine file, cache writeback)`. */
  readonly description: string;
  /** The file behind it, to be locked while the disk is used; absent where there is none, or another process locks it. */
  readonly image?: LockableImage;
  /** The image is only read, whatever the guest may do: a filter keeps its writes. Absent: as `properties` says. */
  readonly imageReadOnly?: boolean;
  /**
   * Resolves, never rejects, if writes that were answered may be lost: with the reason, as the end of a sentence. All
   * operations then fail. Absent: that cannot happen without a failed flush.
   */
  readonly failed?: Promise<string>;
  /** Answered writes end with the process that serves the disk. Absent: they are in a file or a server by then. */
  readonly volatile?: VolatileContent;
  /**
   * What is wrong at the moment, for people: requests wait, or fail, until it is over. Absent or undefined: nothing is.
   */
  readonly trouble?: string | undefined;
  /**
   * The image that has the disk's writes now, as the node `params` names it. Absent or undefined: the one that was asked
   * for.
   */
  readonly named?: string | undefined;
  /** Calls back whenever {@linkcode trouble} or {@linkcode named} changes, until disposed. Absent: neither does. */
  watchTrouble?(listener: () => void): Disposable;
  /** The storage daemon that serves it, for work beside the guest's. Absent: none does. */
  readonly daemon?: ChainDaemon | undefined;
  /** The local files behind it, to find other users. Absent: `image`, if there is one. */
  readonly files?: readonly DiskFile[];
  /**
   * Looks at the image's size again, or makes the image so large before: from then on `properties` has it. Rejects with
   * {@linkcode XenblkError} if it became smaller or cannot grow, or the storage does not answer; then `properties` stays
   * as it was. Absent: the size cannot change.
   */
  grow?(sizeBytes?: number): Promise<void>;
  /**
   * For one channel of a reactor: lane is the number of the reactor that will open it (see DataPlane). What may wait for
   * the storage happens here, not in the reactor. Rejects with {@linkcode XenblkError} if the disk cannot be reached.
   */
  attachment(lane: number): Promise<DiskAttachment>;
  /**
   * With what another reactor opens a channel in place of the one that was opened with `attachment`, once that is closed:
   * without a flush, and without waiting for the storage. What was written to the first channel is flushed through the
   * second. Undefined, or absent: the disk's rings stay in the reactor that they were opened in.
   */
  reattach?(attachment: DiskAttachment, lane: number): DiskAttachment | undefined;
  /**
   * Names the storage that channels with memory of this rule can make their thread wait for, if they can: they make
   * synchronous calls, which block while a file system is frozen or a device is dead. Disks with the same name share
   * reactors; others get their own. Absent: channels never wait.
   */
  waitsFor?(rule: MemoryRule): string | undefined;
  /**
   * As {@linkcode attachment}, for a reactor that has no io_uring, for that reason; absent: the disk needs none. Rejects if it cannot be
   * served without.
   */
  withoutUring?(lane: number, refusal: Refusal): Promise<DiskAttachment>;
}

/** A storage daemon (qemu-storage-daemon) that serves a disk, as those who copy, export or change the disk use it. */
export interface DiskDaemon {
  /** The node that has what the guest sees. */
  readonly top: string;
  /** The names of all that is added for this disk begin with it: `d51712-`. */
  readonly prefix: string;
  /** The image on top; another one after a snapshot or a commit, as `top` and `layers`: they are asked for anew then. */
  readonly image: DaemonImage | undefined;
  /** The nodes of each image of the chain, by the image's absolute path. */
  readonly layers: Readonly<Record<string, LayerNodes>>;
  /**
   * Carries out requests while nothing else about the guest's disks is changed: no disk of the guest is opened, closed or
   * recovered before `call` has settled, so it must not wait for a job to end. Rejects as `call` does, and with
   * {@linkcode XenblkError} if the disk has no daemon at present.
   */
  run<T>(call: (monitor: DaemonMonitor) => Promise<T>): Promise<T>;
  /**
   * Whether another file, or none, is by now at the path of a file of the disk, which the daemon has open: it goes on with
   * that one, and opens the other once it opens the path anew. False if it is not known what it has opened.
   */
  isReplaced(path: string): Promise<boolean>;
}

/** The daemon of an open disk, which can get other images on top. */
export interface ChainDaemon extends DiskDaemon {
  /**
   * How the disk would be opened with another image on top, which exists; `without`: the path of an image of its chain that
   * is passed over, because the one below has all that it holds. Rejects with {@linkcode XenblkError}.
   */
  find(image: DaemonImage, without?: string): Promise<FoundImage>;
}

/** A running storage daemon. */
export interface DaemonMonitor {
  /** For messages: `the storage daemon of domain 5 (process 123)`. */
  readonly name: string;
  /** QEMU's, such as `7.2.22`. */
  readonly version: string;
  /** The process: another one has none of what was added to this one. */
  readonly pid: number;
  /** Where it may create sockets, and finds them at the same path: a folder that only its user can enter. */
  readonly sockets: string;
  /** Carries out one request of QMP. Rejects with {@linkcode XenblkError}: a QmpError if the daemon refuses it. */
  execute(command: string, args?: Readonly<Record<string, unknown>>, timeoutMs?: number): Promise<unknown>;
  /** Lets it reach these files, which exist. Rejects with {@linkcode XenblkError}. */
  allow(files: readonly DiskFile[]): Promise<void>;
  /**
   * Takes files out of its reach again, unless they are a disk's. What it has open stays open, and takes no room once that
   * is closed. Never rejects.
   */
  disallow(paths: readonly string[]): Promise<void>;
  /**
   * Has the guest's requests go to the node that `change` resolves with, such as a filter over {@linkcode DiskDaemon.top}.
   * None is in flight while `change` is carried out: they wait. If it rejects, they go where they went, so it takes back
   * before what would keep them from there. Rejects as it does, and with {@linkcode XenblkError} if they cannot go on, as
   * after the daemon's death.
   */
  reroute(change: Reroute): Promise<void>;
  /**
   * Puts other images on top of disks of this daemon. Whatever dies meanwhile, the disks are opened again with the images
   * of before, or, from {@linkcode TopSteps.note} on, with the others.
   */
  changeTops(changes: readonly TopChange[], steps: TopSteps): Promise<void>;
}

/** An image in a file, as a storage daemon serves it. */
export type DaemonImage = Pick<DiskRequest, "format" | "target">;

/** How an image is opened, as blockdev-add takes it: the last node is the image. Nothing is open yet. */
export interface FoundImage {
  /** In the order in which blockdev-add must add them. */
  readonly nodes: readonly {
    readonly "node-name": string;
    readonly driver: string;
    readonly [option: string]: unknown;
  }[];
  /** The change of the disk to this image, for {@linkcode DaemonMonitor.changeTops}. */
  change(nodes: ChangedNodes): TopChange;
}

/** The names of the nodes of an image in a daemon. */
export interface LayerNodes {
  /** What the image holds. */
  readonly image: string;
  /** Its file. */
  readonly file: string;
}

/** What a daemon has of a disk after a change. */
export interface ChangedNodes {
  /** The node that is exported. */
  readonly top: string;
  /** The nodes of each image of the chain, by the path of the image. */
  readonly layers: Readonly<Record<string, LayerNodes>>;
  /** Nodes that the daemon gets for it, in the order in which they are added. */
  readonly added: readonly string[];
  /** Nodes that it has no more afterwards. */
  readonly removed: readonly string[];
}

/** One disk's part of a change of images. */
export interface TopChange {
  /** The label of its device. */
  readonly device: string;
}

/** The steps of a change; each rejects if it fails. */
export interface TopSteps {
  /** Before anything counts. If it fails, what it did is undone. */
  prepare(): Promise<void>;
  /** From now on the other images are the right ones to open. If it fails, they are not. */
  note(): Promise<void>;
  /**
   * The guest's writes go to the other images. Resolves with the reason if they certainly do not; if it rejects, that is
   * not known, and the daemon is killed: the next one opens the other images.
   */
  carryOut(): Promise<Error | undefined>;
  /** Takes `note` and `prepare` back. */
  undo(): Promise<void>;
}

/** See {@linkcode DaemonMonitor.reroute}. It gets the node that the requests went to. */
export type Reroute = (node: string) => Promise<string>;

/** What a disk loses with the process that serves it. */
export interface VolatileContent {
  /** All that was written, or what was not flushed. */
  readonly loses: "all" | "unflushed";
  /** Fails the disk for good, because an earlier process has lost writes: {@linkcode Disk.failed} then resolves. */
  giveUp(reason: string): void;
}

/** A local file or device that a disk reads. */
export interface DiskFile {
  /** Absolute, or relative to the process. */
  readonly path: string;
  /** The disk writes to it. */
  readonly writable: boolean;
}

/** Whether the guest's writes reach the image. */
export function writesImage({ imageReadOnly, properties }: Pick<Disk, "imageReadOnly" | "properties">): boolean {
  return !(imageReadOnly ?? properties.readOnly);
}

/** The local files behind a disk, to find other users. */
export function filesOf(
  disk: Pick<Disk, "files" | "image" | "imageReadOnly" | "properties">,
): readonly DiskFile[] {
  const { files, image } = disk;
  return files ?? (image === undefined ? [] : [{ path: image.path, writable: writesImage(disk) }]);
}

/**
 * Memory that operations name by index: entry i is `lengths[i]` bytes at `addresses[i]`. The arrays belong to whoever
 * opened the channel and may change between operations; the entries of an operation are its own until it completes.
 */
export interface IoVectors {
  /** Where each entry begins. */
  readonly addresses: Float64Array;
  /** Bytes of each entry. */
  readonly lengths: Uint32Array;
}

/** What an engine may do with the memory that a channel's operations name. */
export interface MemoryRule {
  /** Direct I/O (O_DIRECT): the device itself reads and writes it. False: only through the page cache. */
  readonly direct: boolean;
  /**
   * I/O that may still refer to the memory while it completes (io_uring). False: it is unmapped right after
   * the completion, so each operation must be a call that returns when it is over (preadv, pwritev).
   */
  readonly asynchronous: boolean;
}

/** What a channel is opened with. */
export interface ChannelOptions {
  /** Most operations in flight; tags are 0 to depth - 1. */
  readonly depth: number;
  /** Named by index in {@linkcode IoChannel.read} and write. */
  readonly vectors: IoVectors;
  /** Turns any address in `vectors` into bytes. */
  readonly memory: MemorySpace;
  /**
   * Memory that lives as long as the channel. Pages outside it may come and go between operations (see views.ts). After
   * half a minute without operations its pages may be given back to the kernel, which breaks what was registered of them.
   */
  readonly buffers?: Memory;
  /** Absent: the memory is private and stays, so everything is allowed. */
  readonly rule?: MemoryRule;
}

/** Opens a channel to the disk that an attachment names, in the calling thread. */
export type ChannelOpener = (attachment: DiskAttachment, options: ChannelOptions) => IoChannel;

/** Opens the memory that the disk, or one behind it, requires; undefined: none does. Throws if it cannot be opened. */
export type BufferOpener = (attachment: DiskAttachment) => BufferSpace | undefined;

/** The thread that a channel is opened in, as its module sees it. */
export interface ChannelContext {
  /** Its memory holds what the channel's vectors name; its clock is that of {@linkcode IoChannel.dueMs}. */
  readonly platform: Platform;
  /**
   * Where the thread sleeps. A channel that completes when a descriptor becomes readable watches that descriptor until
   * it is disposed. Engine `uring` has its ring here.
   */
  readonly parker: Parker;
  /** For threads that a channel starts: {@linkcode Platform.openWaker} with this wakes the channel's thread. */
  readonly token: WakeToken;
  /** For filters: opens a channel to the attachment's `inner`, with the same options or others; the filter owns it. */
  readonly openChannel: ChannelOpener;
}

/**
 * One ring's way to its disk: queue operations, submit them once a turn, reap completions. A tag is in flight from
 * its call until {@linkcode reap} yields it; until then its vectors and their memory belong to the channel. Every
 * operation completes exactly once, whole: short transfers are continued and EINTR is retried inside. A channel never
 * blocks its caller on the disk unless it says so. Completion wakes the reactor that the channel was opened in. Errors
 * are results: a method that throws ends the process, and with it what other guests are served. Only a defect of the
 * caller throws: a tag that is in flight or not below the depth (RangeError), and disposing it with operations in flight.
 */
export interface IoChannel extends Disposable {
  /** Operations accepted and not yet reaped. */
  readonly inFlight: number;
  /** Reads into `vectors[first..first+count)` from `offsetBytes` on. */
  read(tag: number, offsetBytes: number, first: number, count: number): void;
  /** Writes `vectors[first..first+count)` from `offsetBytes` on. */
  write(tag: number, offsetBytes: number, first: number, count: number): void;
  /** Makes all writes that completed before this call durable (fdatasync). */
  flush(tag: number): void;
  /**
   * Frees bytes below, `secure` making them unrecoverable; without vectors. Completes with -EOPNOTSUPP where
   * the disk's properties have no discard, or none that is secure.
   */
  discard(tag: number, offsetBytes: number, lengthBytes: number, secure: boolean): void;
  /** Starts what was queued since the last call. */
  submit(): void;
  /**
   * When the channel wants to be reaped although nothing wakes its thread, on the platform's clock in milliseconds;
   * Infinity: never. Looked at before the thread sleeps, and every few turns; a ring without requests is visited, too.
   * A filter names the earlier of its own time and its inner channel's. Absent, also later: completions wake the thread.
   */
  readonly dueMs?: number;
  /**
   * True: nothing is in flight, and {@linkcode dueMs} is Infinity until an operation is queued, so nobody needs to look at
   * it. Absent, in a channel with due times: they are looked at always.
   */
  readonly isResting?: boolean;
  /** Collects completions into {@linkcode tags} and {@linkcode results}; returns how many. */
  reap(): number;
  /** Valid up to the count of the last {@linkcode reap}. */
  readonly tags: Uint32Array;
  /** 0 is done; else a negative errno. */
  readonly results: Int32Array;
}
