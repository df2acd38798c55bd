/**
 * THE SEAM. Everything that a real hypervisor and a simulated one both provide, as interfaces: xenstore, grant table,
 * event channels, guest memory, parking and waking, the clock. The real side is in ffi/, the simulated side in
 * lib/sim/; any module can bring another one (see {@linkcode PlatformDescriptor}). This file imports nothing.
 *
 * Addresses are Numbers below 2^53. On the real side they are virtual addresses of this process; on the simulated side
 * they are byte offsets into the simulated machine's one SharedArrayBuffer. Either way an address means the same in
 * every Worker of the process, and {@linkcode MemorySpace.view} turns it into bytes.
 */

/** Makes the number types below different from each other and from plain numbers; there is no such value. */
export declare const brand: unique symbol;

/** A domain id, 0 to 0x7FEF (xen.h: DOMID_FIRST_RESERVED is 0x7FF0). */
export type DomId = number & { readonly [brand]: "DomId" };
/** A grant reference, a u32 index into the granting domain's grant table. */
export type GrantRef = number & { readonly [brand]: "GrantRef" };
/** An event-channel port, a u32 local to one domain. */
export type EvtchnPort = number & { readonly [brand]: "EvtchnPort" };

/** Bytes at an address. The view is made once, with the memory, and is valid as long as the memory is. */
export interface Memory {
  /** An address as described above. Only the code that made the memory may do arithmetic on it. */
  readonly address: number;
  /** The bytes themselves. */
  readonly view: Uint8Array;
}

/** Memory with an owner. Disposing frees it; no view of it may be used afterwards. */
export interface OwnedMemory extends Memory, Disposable {
  /** Gives the pages back until they are used again; they then begin as zeroes. Absent: the memory stays. */
  discard?(): void;
}

/** Private memory of this process that engines and grant copies may name by address. */
export interface MemorySpace {
  /** Zeroed, page-aligned memory. Throws RangeError when there is none left. */
  allocate(lengthBytes: number): OwnedMemory;
  /** Bytes of memory that is known by address (in another Worker, say). Costly (about 1 µs): never per request. */
  view(address: number, lengthBytes: number): Uint8Array;
}

/** A failed grant operation: `status` is a negative errno, or a GNTST_* value of grant_table.h. */
export class GrantError extends Error {
  /** Distinguishes it from other errors. */
  override readonly name = "GrantError";
  /** `status` is kept as it is. */
  constructor(message: string, readonly status: number) {
    super(message);
  }
}

/**
 * The mapping side of the grant table, for the grants of one guest domain (libxengnttab's xengnttab_handle).
 * Calls are synchronous and belong to one thread.
 */
export interface GrantTable extends Disposable {
  /** Announces the most grants that will be mapped; before any mapping. A no-op on current kernels. */
  setMaxGrants(count: number): void;
  /**
   * Maps the pages of a ring into one contiguous range; disposing the result unmaps it.
   * Throws {@linkcode GrantError} when any reference is bad (then none stays mapped).
   */
  mapPages(refs: readonly GrantRef[], writable: boolean): OwnedMemory;
  /**
   * Maps `count` references, `refs[first]` onwards, in one call, and writes each page's address to
   * `addresses[first]` onwards. Returns 0, or a negative errno when any reference was bad (then none stays mapped).
   */
  map(refs: Uint32Array, first: number, count: number, writable: boolean, addresses: Float64Array): number;
  /** Undoes one {@linkcode map}, named by its first address and its count. Returns 0 or a negative errno. */
  unmap(address: number, count: number): number;
  /** Allocates a batch of grant copies, with at most `capacity` segments per call. */
  createCopyBatch(capacity: number): GrantCopyBatch;
}

/** Grant copies that go to the hypervisor in one call (GNTTABOP_copy). Made once, used for every batch. */
export interface GrantCopyBatch extends Disposable {
  /** Segments that fit. */
  readonly capacity: number;
  /** Segments added since {@linkcode clear}. */
  readonly length: number;
  /** Forgets all segments. */
  clear(): void;
  /** Adds a copy of guest bytes to local memory. `offsetBytes + lengthBytes <= 4096`. */
  addFromGuest(ref: number, offsetBytes: number, localAddress: number, lengthBytes: number): void;
  /** Adds a copy of local memory to guest bytes. `offsetBytes + lengthBytes <= 4096`. */
  addToGuest(ref: number, offsetBytes: number, localAddress: number, lengthBytes: number): void;
  /**
   * Copies all segments, in order, in one call. Every status is set to a failure before the call, so a call that
   * changes no status (XSA-318) counts as failed. Returns 0 or the call's negative errno.
   */
  run(): number;
  /** Status of a segment after {@linkcode run}: 0 is success; all else, positive too (XSA-316), is a failure. */
  status(index: number): number;
}

/** What {@linkcode EventChannels.take} returns when the event queue overflowed and was reset: look at every ring. */
export const EVENTS_OVERFLOWED: number = -1;

/**
 * What can end a thread's sleep besides its {@linkcode Waker}s: an event queue, a socket, an eventfd. The code that made
 * it passes it to {@linkcode Parker.watch} of the thread that uses it.
 */
export interface Wakeable {
  /**
   * A file descriptor that poll(2) finds readable (POLLIN) when there is something to do; it must not block when read.
   * On a simulated machine, which has no descriptors: a number that stands for a set of event channels.
   */
  readonly fd: number;
  /**
   * The thread's parker calls this when it has found `fd` readable, from inside `park` or `submit`. A parker need not
   * call it again before the descriptor was read until it would block. It must not throw, wait, watch or unwatch.
   */
  fired(): void;
  /**
   * Absent: the source does not need to know. True: from now on every readiness is reported by {@linkcode fired}, at the
   * latest in the next `submit`, so the source has nothing new until then. False: readiness is no longer reported.
   */
  setWatched?(watched: boolean): void;
}

/** Event channels between this domain and others (libxenevtchn's xenevtchn_handle). One thread's. */
export interface EventChannels extends Wakeable, Disposable {
  /** Why the handle is not restricted to the domain it was opened for; undefined once it is. */
  readonly unrestricted?: string | undefined;
  /** Binds to a port that the other domain left unbound for us; the local port is raised once by binding. */
  bindInterdomain(remoteDomain: DomId, remotePort: EvtchnPort): EvtchnPort;
  /** Makes a port that the other domain may bind to: the frontend's side. */
  bindUnbound(remoteDomain: DomId): EvtchnPort;
  /** Notifies the other end. Several notifications before it takes them merge into one. */
  notify(port: EvtchnPort): void;
  /** Closes the port; the other end is left unbound for us again. */
  unbind(port: EvtchnPort): void;
  /**
   * Takes (and unmasks) the ports that fired since the last call, into `ports`, without waiting.
   * Returns how many, or {@linkcode EVENTS_OVERFLOWED}.
   */
  take(ports: Uint32Array): number;
}

/** Pages that this domain grants to another (the frontend's side; libxengnttab's xengntshr_handle). */
export interface SharedPages extends OwnedMemory {
  /** One grant reference per page. */
  readonly refs: readonly GrantRef[];
}

/** The granting side of the grant table: what a frontend needs. One thread's. */
export interface GrantShares extends Disposable {
  /** Grants `count` zeroed contiguous pages to `toDomain`. Disposing the result ends the grants. */
  share(toDomain: DomId, count: number, writable: boolean): SharedPages;
}

/**
 * How any thread ends a park: the shared word says whether the thread sleeps; `fd` is the real side's eventfd (-1 on
 * the simulated side, where the word itself is waited on). Structured-cloneable.
 */
export interface WakeToken {
  /** Says whether the sleeper sleeps; see park_word.ts. */
  readonly word: SharedArrayBuffer;
  /** The eventfd to write when it sleeps, or -1. */
  readonly fd: number;
}

/** Wakes the one thread that parks with a token. */
export interface Waker {
  /** Never lost: a wake before the park makes the park return at once. Cheap when the sleeper is awake. */
  wake(): void;
}

/** Why something cannot be used on this machine. Structured-cloneable. */
export interface Refusal {
  /** The end of a sentence, such as `X cannot be used: <reason>`. */
  readonly reason: string;
  /** What to do about it. */
  readonly remedy: string;
}

/** How a thread's place to sleep is opened. */
export interface ParkerOptions {
  /** Also carry out disk I/O, if the platform can do both in one call (io_uring). Absent: not requested. */
  readonly withIo?: boolean;
}

/** A thread's one place to sleep. */
export interface Parker extends Disposable {
  /** Ends a park whenever the source becomes ready. Throws TypeError if it has nothing that can be polled here. */
  watch(source: Wakeable): void;
  /** Undoes {@linkcode watch}; before the source's descriptor is closed. */
  unwatch(source: Wakeable): void;
  /**
   * Sleeps until a source is ready, I/O that was prepared here completes, a wake, or the timeout (in milliseconds; -1 is
   * no timeout). Returns at once if woken since the last park.
   */
  park(timeoutMs: number): void;
  /** Starts, in one call, the I/O that channels prepared here; so does a park. Absent: the parker carries out no I/O. */
  submit?(): void;
  /** Why the parker carries out no I/O although it was requested. */
  readonly refusal?: Refusal;
}

/** Identifies a file for as long as it is open; or a block device, however many nodes it has. */
export interface FileIdentity {
  /** The device that holds the file (st_dev); of a block device its own number (st_rdev). */
  readonly device: number;
  /** The file's number there; 0 for a block device. */
  readonly inode: number;
}

/** An image file as its locks see it. Structured-cloneable. */
export interface LockableImage {
  /** Where it was opened; absolute or relative to the process. */
  readonly path: string;
  /** The file that was opened there: the path may name another file later. */
  readonly identity: FileIdentity;
  /** The media that it lies on: of a partition the disk, of a loop device the file behind it, and what they lie on. */
  readonly below?: readonly FileIdentity[];
  /** Its descriptors, in memory that all threads share. Absent: locks open it by its path. */
  readonly descriptors?: SharedArrayBuffer;
}

/** Memory that outlives the process. Parts of it may be absent: they must not be touched, and take no memory. */
export interface KeptMemory extends OwnedMemory {
  /** Makes a part present: with its old contents if it was, else zeroed. Throws if there is no memory for it. */
  reserve(offsetBytes: number, lengthBytes: number): void;
  /** Makes a part absent. A failure is no error: the part then goes on to take memory. */
  release(offsetBytes: number, lengthBytes: number): void;
}

/** What outlives the process, by name: the memory of journals and latches, and the locks of devices. */
export interface JournalStore {
  /**
   * Opens memory by name: with its old contents if it exists in that size, else zeroed. Only the first bytes must be
   * present, by default all of them. Throws if that fails.
   */
  open(name: string, lengthBytes: number, firstBytes?: number): KeptMemory;
  /** Names of existing memory, and of locks, held or not. Throws if they cannot be listed. */
  names(): string[];
  /** Removes the memory or lock of that name. No error if there is none. */
  remove(name: string): void;
  /**
   * Takes the lock of that name, until it is disposed or the process ends, however it ends. Undefined: another
   * owner holds it. Throws if this machine cannot lock.
   */
  lock(name: string): Disposable | undefined;
}

/**
 * Names a platform so that another Worker can open the same one: the module that opens it (see {@linkcode
 * PlatformModule}), and whatever that module needs. Structured-cloneable.
 */
export interface PlatformDescriptor {
  /** The module's absolute URL, for instance by `import.meta.url`. */
  readonly module: string;
  /** The module's own. */
  readonly [detail: string]: unknown;
}

/** What a module that a {@linkcode PlatformDescriptor} names exports. */
export interface PlatformModule {
  /** Opens the platform in the calling thread. What it throws is the reason why that thread cannot serve. */
  openPlatform(descriptor: PlatformDescriptor): Platform | Promise<Platform>;
}

/** A hypervisor as one domain's process sees it. Opened once a thread; everything is opened lazily. */
export interface Platform {
  /** Opens the same platform in another Worker. */
  readonly descriptor: PlatformDescriptor;
  /** Private memory of this process. */
  readonly memory: MemorySpace;
  /** What outlives this process, so that a crash loses nothing. */
  readonly journals: JournalStore;
  /** A handle for the grants of one guest domain. */
  openGrantTable(guest: DomId): GrantTable;
  /** A handle for the event channels with one other domain. */
  openEventChannels(other: DomId): EventChannels;
  /** The frontend's side: for simulated guests and tests. */
  openGrantShares(): GrantShares;
  /** Made by the control plane, given to the Worker that parks and to all that wake it. */
  createWakeToken(): WakeToken & Disposable;
  /** Belongs to the thread that will sleep. */
  openParker(token: WakeToken, options?: ParkerOptions): Parker;
  /** For any thread that knows the token. */
  openWaker(token: WakeToken): Waker;
  /** Milliseconds of a monotonic clock that all threads of the process share, as nearly as its clocks allow. */
  now(): number;
  /** Stores the same in `into[index]`, without making a number: a reactor does so for each request. Absent: now(). */
  readClock?(into: Float64Array, index: number): void;
  /** Tells threads that a disk holds up from those that hang. Absent: that cannot be told. */
  readonly threads?: ThreadStates;
}

/** What the kernel does with the threads of this process. */
export interface ThreadStates {
  /** The number of the calling thread, for {@linkcode isHeld} in any thread. */
  current(): number;
  /** Whether the kernel holds the thread in a wait that no signal ends, as for a disk that does not answer. */
  isHeld(thread: number): boolean;
  /** Milliseconds in which it has had a processor, or waited for one; undefined if that is not known. */
  busyMs?(thread: number): number | undefined;
}

/** One entry of a node's permissions: entry 0 is the owner, and its access is the default for all other domains. */
export interface XenstorePermission {
  /** The domain that the entry applies to. */
  readonly domain: DomId;
  /** May read the value and list the children. */
  readonly read: boolean;
  /** May write the value and make children. */
  readonly write: boolean;
}

/** A failed xenstore operation. A missing node is no error on reading: it reads as undefined. */
export class XenstoreError extends Error {
  /** Distinguishes it from other errors. */
  override readonly name = "XenstoreError";
  /** `code` is a symbolic errno. */
  constructor(
    message: string,
    /**
     * EACCES: not permitted. EINVAL: not a path. ENOSPC, E2BIG: quota. EAGAIN: a transaction's conflicts. EDISCONNECTED:
     * xenstored is gone, or has not answered in time.
     */
    readonly code: string,
    readonly path: string,
  ) {
    super(message);
  }
}

/**
 * What can be done inside and outside a transaction. Paths are absolute, or relative to the caller's own
 * `/local/domain/<domid>`. Values are text. Every call may throw {@linkcode XenstoreError}.
 */
export interface XenstoreOperations {
  /** The node's value, or undefined if there is no such node. */
  read(path: string): string | undefined;
  /**
   * The values of many nodes, read in their order, with one wait for all of them; in place of a value, the error that
   * reading that node would throw. Absent: they are read one by one.
   */
  readAll?(paths: readonly string[]): (string | undefined | XenstoreError)[];
  /** Names of the children, or undefined if there is no such node. */
  list(path: string): string[] | undefined;
  /** Writes, and creates the node and its missing parents. In a transaction a later operation may throw its error. */
  write(path: string, value: string): void;
  /** Makes an empty node and its missing parents; a node that is there stays as it is. */
  makeDirectory(path: string): void;
  /** Removes a node and all below it. False if there was none. */
  remove(path: string): boolean;
  /** The node's permissions, the owner's first, or undefined if there is no such node. */
  permissions(path: string): XenstorePermission[] | undefined;
  /** Replaces the node's permissions; those of nodes below stay. */
  setPermissions(path: string, permissions: readonly XenstorePermission[]): void;
}

/** Yields the path that changed, first the watched path itself, at once. Ends when disposed or the store is lost. */
export interface XenstoreWatch extends AsyncIterable<string>, Disposable {}

/** A connection to xenstored. */
export interface Xenstore extends XenstoreOperations, Disposable {
  /**
   * Runs `body` and commits; runs it again if another client's commit conflicts with it. After a few tries throws
   * {@linkcode XenstoreError} EAGAIN: it never sleeps. `body` must do nothing but store operations.
   */
  transaction<T>(body: (transaction: XenstoreOperations) => T): T;
  /** Watches a node and all below it, or `@releaseDomain`, `@introduceDomain`. */
  watch(path: string): XenstoreWatch;
  /** `/local/domain/<domid>`. */
  domainPath(domain: DomId): string;
  /** Whether xenstored knows the domain: it has been made and has not ended. */
  isDomainIntroduced(domain: DomId): boolean;
  /** Resolves, once, with the reason when the connection is lost. */
  readonly lost: Promise<string>;
  /**
   * Resolves when xenstored answers, however long that takes; rejects with {@linkcode XenstoreError} EDISCONNECTED if the
   * connection is lost first. It blocks no thread, unlike all other calls. Absent: it answers at once.
   */
  answers?(): Promise<void>;
}
