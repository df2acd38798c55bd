/**
 * One ring per reactor: it carries out the operations of all channels and is the reactor's one place to sleep, where the
 * descriptors it watches and the wake token's eventfd are polled by the same ring. Whatever the channels queued in a turn
 * reaches the kernel in one call.
 */

import { errorText } from "../../lib/errors.ts";
import type { Parker, Wakeable, WakeToken } from "../../lib/hypervisor.ts";
import { enterPark, leavePark } from "../../lib/park_word.ts";
import type { ChannelOptions, IoChannel } from "../../lib/storage/disk.ts";
import type { UringAttachment } from "../../lib/storage/image/medium.ts";
import { lowerEventfd } from "../linux/eventfd.ts";
import { readMonotonicMs } from "../linux/monotonic.ts";
import { checkDescriptor, NativeParker } from "../linux/park.ts";
import { UringChannel, type UringHost } from "./channel.ts";
import { CQE_MORE, IORING_OP, IoUring } from "./ring.ts";
import { CQE_WORDS, REACTOR_RING, RingUnavailable, type SetupCall } from "./setup.ts";

/** Images of one reactor that are registered; more are served, a little slower. */
const REGISTERED_FILES = 512;
/** Calls of the kernel until the lack of room in the ring is taken for an error. */
const MOST_ATTEMPTS = 10_000;
/**
 * Kernel threads for operations that block, besides one for each operation that channels can have in flight. So a disk
 * that hangs, with all of its operations stuck, leaves the others theirs.
 */
const SPARE_WORKERS = 8;
/** How long one look for a cancelled poll may take, and how many there are. */
const CANCEL_TIMEOUT_MS = 10;
const CANCEL_ATTEMPTS = 500;

/** High words of user data: what a completion is for. Low words: nothing, a watch's number, a channel's tag. */
const FOR_NOBODY = 0;
const FOR_WATCH = 1;
const FOR_CHANNEL = 2;
const TWO_32 = 2 ** 32;

const WAKE_WATCH = 0;
const POLLIN = 1;
const POLL_MULTISHOT = 1;

/** How an engine is made. */
export interface UringEngineOptions {
  /** io_uring_setup(2), or a test's stand-in. */
  readonly setup?: SetupCall;
}

/** A place to sleep that also carries out I/O; or, where no ring can be made, one that does not and says why. */
export function openUringParker(token: WakeToken, options: UringEngineOptions = {}): Parker {
  try {
    return new UringEngine(token, options);
  } catch (error) {
    const remedy = error instanceof RingUnavailable ? error.remedy : "report this defect";
    return new NativeParker(token, { reason: errorText(error), remedy });
  }
}

/** A thread's io_uring: its place to sleep, and what carries out the operations of its channels. */
export class UringEngine implements Parker, UringHost {
  readonly ring: IoUring;
  readonly #word: Int32Array;
  /** By number: a channel, or undefined for a free one. */
  readonly #channels: (UringChannel | undefined)[] = [];
  /** So many of this list have something to go on with; one may be there several times. It keeps its memory. */
  readonly #goingOn: (UringChannel | undefined)[] = [];
  #goingOnCount = 0;
  /** By their watch's number. */
  readonly #watched = new Map<number, Wakeable>();
  readonly #expired: number[] = [];
  #lastWatch = WAKE_WATCH;
  /** A watched descriptor, or the wake token's, was readable since the last park. */
  #alarmed = false;
  /** Completed operations that their channels' owners have not reaped. */
  #unreaped = 0;
  /** Operations that all open channels can have in flight. */
  #depth = 0;

  /** Throws RingUnavailable. To be made in the thread that will use it. */
  constructor(token: WakeToken, options: UringEngineOptions = {}) {
    this.ring = new IoUring({ ...REACTOR_RING, ...options });
    this.ring.reserveFiles(REGISTERED_FILES);
    this.#word = new Int32Array(token.word);
    this.#watch(WAKE_WATCH, { fd: token.fd, fired: () => lowerEventfd(token.fd) });
  }

  /** Opens a channel to a file. Throws Error if it cannot be opened, or another file took its place. */
  openChannel(attachment: UringAttachment, options: ChannelOptions): IoChannel {
    const free = this.#channels.indexOf(undefined);
    const number = free < 0 ? this.#channels.length : free;
    const channel = new UringChannel(attachment, options, this, FOR_CHANNEL + number, () => {
      this.#channels[number] = undefined;
      this.#allowWorkers(-options.depth);
    });
    this.#channels[number] = channel;
    this.#allowWorkers(options.depth);
    return channel;
  }

  /** The channels can have so many more operations in flight. */
  #allowWorkers(operations: number): void {
    this.#depth += operations;
    this.ring.limitWorkers(this.#depth + SPARE_WORKERS);
  }

  /** Hands over what was prepared and collects what is done, without waiting; no call if there is neither. */
  submit(): void {
    if (this.ring.prepared > 0 || this.ring.workWaits) this.ring.enter(0, -1);
    this.#collect();
  }

  watch(source: Wakeable): void {
    checkDescriptor(source);
    source.setWatched?.(true);
    this.#watch(++this.#lastWatch, source);
  }

  /** Afterwards the kernel does not hold the descriptor's file any more. */
  unwatch(source: Wakeable): void {
    for (const [watch, watched] of this.#watched) {
      if (watched !== source) continue;
      source.setWatched?.(false);
      this.#watched.delete(watch);
      this.#cancel(watch);
      return;
    }
  }

  /** Sleeps, and hands over what was prepared with the same call. Returns at once if a channel has completions. */
  park(timeoutMs: number): void {
    if (!enterPark(this.#word)) return this.submit();
    this.#collect();
    if (this.#alarmed || this.#unreaped > 0) {
      leavePark(this.#word);
      this.submit();
    } else {
      this.ring.enter(1, timeoutMs);
      leavePark(this.#word);
      this.#collect();
    }
    this.#alarmed = false;
  }

  /** All channels must be closed. */
  [Symbol.dispose](): void {
    this.ring[Symbol.dispose]();
  }

  /** For channels: makes sure that there is room for one submission. */
  makeRoom(): void {
    for (let attempt = 0; !this.ring.hasRoom; attempt++) {
      if (attempt === MOST_ATTEMPTS) throw new Error("Cannot submit I/O: the kernel takes nothing from the ring");
      // A kernel without memory for one more completion wants to be relieved of some first.
      if (this.ring.enter(0, -1) < 0) this.#consume();
    }
  }

  /** For channels: so many operations were completed, or (negative) reaped. */
  countUnreaped(count: number): void {
    this.#unreaped += count;
  }

  /** For channels. */
  readClock(into: Float64Array, index: number): void {
    readMonotonicMs(into, index);
  }

  /** Gives all completions to whom they concern, and prepares what follows from them. */
  #collect(): void {
    this.#consume();
    while (this.#expired.length > 0) {
      const watch = this.#expired.pop()!;
      const watched = this.#watched.get(watch);
      if (watched !== undefined) this.#watch(watch, watched);
    }
    while (this.#goingOnCount > 0) {
      const channel = this.#goingOn[--this.#goingOnCount]!;
      this.#goingOn[this.#goingOnCount] = undefined;
      channel.goOn();
    }
  }

  #consume(): void {
    const { ring } = this;
    const { completions, completionMask } = ring;
    let head = ring.completionHead;
    for (let tail = ring.completionTail; head !== tail; tail = ring.completionTail) {
      while (head !== tail) {
        const at = (head & completionMask) * CQE_WORDS;
        const high = completions[at + 1]!;
        if (high >= FOR_CHANNEL) {
          const channel = this.#channels[high - FOR_CHANNEL]!;
          if (channel.arrived(completions[at]!, completions[at + 2]!)) this.#goingOn[this.#goingOnCount++] = channel;
        } else if (high === FOR_WATCH) this.#fired(completions[at]!, completions[at + 3]!);
        head = (head + 1) | 0;
      }
      ring.consume(head);
    }
  }

  #fired(watch: number, flags: number): void {
    const watched = this.#watched.get(watch);
    // A wake, too, can come to light between a park's beginning and its wait, which nothing else would end then.
    if (watched !== undefined) this.#alarmed = true;
    watched?.fired();
    if ((flags & CQE_MORE) === 0) this.#expired.push(watch);
  }

  #watch(watch: number, source: Wakeable): void {
    this.#watched.set(watch, source);
    this.makeRoom();
    this.ring.prepare(IORING_OP.pollAdd, source.fd, 0, 0, POLL_MULTISHOT, POLLIN, watch, FOR_WATCH);
  }

  /** Ends a poll, which holds its file open until then. While an event is being delivered, the kernel refuses: retry. */
  #cancel(watch: number): void {
    for (let attempt = 0; attempt < CANCEL_ATTEMPTS; attempt++) {
      this.makeRoom();
      this.ring.prepare(IORING_OP.pollRemove, -1, 0, watch + FOR_WATCH * TWO_32, 0, 0, watch, FOR_NOBODY);
      this.ring.enter(1, CANCEL_TIMEOUT_MS);
      this.#consume();
      const expired = this.#expired.indexOf(watch);
      if (expired < 0) continue;
      this.#expired.splice(expired, 1);
      return;
    }
  }
}
