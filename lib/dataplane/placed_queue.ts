/**
 * A queue as the control plane holds it, and the reactor that serves it at present. It can move to another reactor of the
 * process: the old one takes no more requests, finishes those in flight and releases the ring, without a flush; the new one
 * opens the same ring, event channel and journal. The guest sees at most a pause. While the old one cannot finish, or the
 * new one cannot open, the queue stays where it was.
 */

import { errorText } from "../errors.ts";
import type { DiskAttachment } from "../storage/disk.ts";
import type { OpenRequest } from "./connection.ts";
import { STAT } from "./stats.ts";
import type { QueueHandle, QueueSpec } from "./types.ts";

/** How long a reactor may take to finish what is in flight when a queue moves. It takes no requests meanwhile. */
const RELEASE_LIMIT_MS = 100;
/** How long the new reactor may take until it begins to open the ring: longer, and it is too busy to be given more. */
const BEGIN_LIMIT_MS = 250;
/** How long it may take to load what the disk needs. Its ring is served meanwhile, but a disk that grows waits for that. */
const PREPARE_LIMIT_MS = 2_000;
/**
 * How often each reactor tries to open a ring that none serves, before its guest is told that it is stopped. The last try
 * of the old one has no limit: a ring must not be stopped because its reactor is busy.
 */
const ROUNDS = 3;

/** A reactor that died may have served the queue: it is not opened elsewhere. */
export class QueueLostError extends Error {
  override readonly name = "QueueLostError";
}

/** What a reactor reports of a queue. */
export interface PlacedEvents {
  readonly id: number;
  readonly label: string;
  /** The ring is stopped, for that reason. */
  stop(reason: string): void;
  /** A flush of the device failed. */
  latch(): void;
  /** The process no longer wants the queue. */
  close(): Promise<void>;
}

/** One reactor, as queues are placed on it. */
export interface Site {
  /** Its number; no other reactor ever has it. */
  readonly lane: number;
  /** Loads what the attachment needs, so that opening a queue need not wait for it. Rejects with the reason if it cannot. */
  prepare(attachment: DiskAttachment): Promise<void>;
  /**
   * Serves the queue. Rejects with the reason if it cannot, leaving nothing; with {@linkcode QueueLostError} if it died
   * and nobody knows. Aborting, and the limit, end it only if the reactor has not begun.
   */
  open(queue: PlacedEvents, request: OpenRequest, signal?: AbortSignal, limitMs?: number): Promise<void>;
  /**
   * Serves the queue no more, once nothing is in flight, and what was answered was flushed if `flush`. False: the reactor
   * cannot, or not within the limit, and goes on to serve it.
   */
  release(id: number, limitMs: number, flush?: boolean): Promise<boolean>;
  /** Begins to take the requests of a queue that was opened `held`. */
  begin(id: number): void;
  grow(id: number, sectors: number): Promise<void>;
  close(id: number): Promise<void>;
}

/** A reactor that a queue counts for, until it leaves. */
export interface Place {
  readonly site: Site;
  readonly leave: () => void;
}

/** What became of a move. Moved: how long no reactor served the ring, by the given clock. */
export type MoveResult =
  | { readonly moved: true; readonly pausedMs: number }
  | { readonly moved: false; readonly reason: string };

/** Queues of this process so far: the number of a queue is the same in each reactor. */
let queues = 0;

/** A queue, wherever it is served. */
export class PlacedQueue implements QueueHandle, PlacedEvents {
  readonly id = ++queues;
  readonly stopped: Promise<string>;
  readonly latched: Promise<void>;
  readonly stop: (reason: string) => void;
  readonly latch: () => void;
  readonly #spec: QueueSpec;
  readonly #now: () => number;
  readonly #stats: Float64Array;
  readonly #closeAsked = Promise.withResolvers<void>();
  #place: Place;
  #attachment: DiskAttachment;
  /** A move, or the release of the ring, is under way. */
  #moving: Promise<unknown> | undefined;
  #closing: Promise<void> | undefined;
  #held: boolean;

  /** {@linkcode open} is to be called next. */
  constructor(spec: QueueSpec, place: Place, attachment: DiskAttachment, now: () => number) {
    this.#spec = spec;
    this.#held = spec.held === true;
    this.#place = place;
    this.#attachment = attachment;
    this.#now = now;
    this.#stats = new Float64Array(spec.stats);
    const stopped = Promise.withResolvers<string>();
    this.stopped = stopped.promise;
    this.stop = stopped.resolve;
    const latched = Promise.withResolvers<void>();
    this.latched = latched.promise;
    this.latch = latched.resolve;
  }

  get label(): string {
    return this.#spec.label;
  }

  get inFlight(): number {
    return this.#stats[STAT.inFlight]!;
  }

  get reactor(): number {
    return this.#place.site.lane;
  }

  /** Its counters; see stats.ts. */
  get stats(): Float64Array {
    return this.#stats;
  }

  /** It is not being closed, and its disk can be served by that reactor, too. */
  canMoveTo(lane: number): boolean {
    const stays = this.#held || this.#closing !== undefined || this.#moving !== undefined;
    return !stays && this.#attachmentFor(lane) !== undefined;
  }

  /** Rejects with the reason if it is refused. */
  async open(signal?: AbortSignal): Promise<void> {
    await this.#place.site.open(this, this.#requestFor(this.#attachment, false), signal);
  }

  async grow(sectors: number): Promise<void> {
    if (this.#moving !== undefined) await this.#moving;
    await this.#place.site.grow(this.id, sectors);
  }

  start(): void {
    this.#held = false;
    this.#place.site.begin(this.id);
  }

  async release(limitMs: number): Promise<boolean> {
    if (this.#moving !== undefined) await this.#moving;
    if (this.#closing !== undefined) return false;
    const releasing = this.#place.site.release(this.id, limitMs, !this.#held);
    this.#moving = releasing;
    const isReleased = await releasing.finally(() => this.#moving = undefined);
    if (!isReleased) return false;
    this.#closing ??= Promise.resolve(); // nothing is left to close
    this.#place.leave();
    return true;
  }

  close(): Promise<void> {
    return this.#closing ??= this.#close();
  }

  /** Has another reactor serve the ring. Never rejects; whatever comes of it, the queue counts for one place only. */
  move(to: Place): Promise<MoveResult> {
    const attachment = this.canMoveTo(to.site.lane) ? this.#attachmentFor(to.site.lane) : undefined;
    if (attachment === undefined) {
      to.leave();
      return Promise.resolve({ moved: false, reason: "it is being closed or moved, or its disk cannot move" });
    }
    const moving = this.#move(to, attachment).finally(() => this.#moving = undefined);
    this.#moving = moving;
    return moving;
  }

  async #close(): Promise<void> {
    this.#closeAsked.resolve();
    if (this.#moving !== undefined) await this.#moving;
    const { site, leave } = this.#place;
    try {
      await site.close(this.id);
    } finally {
      leave();
    }
  }

  #attachmentFor(lane: number): DiskAttachment | undefined {
    return this.#spec.disk.reattach?.(this.#attachment, lane);
  }

  #requestFor(attachment: DiskAttachment, moved: boolean): OpenRequest {
    const { disk, moved: _moved, held: _held, ...rest } = this.#spec;
    const { journal } = rest;
    return {
      ...rest,
      ...(this.#held ? { held: true } : {}),
      ...(moved && journal !== undefined ? { journal: { ...journal, resume: true } } : {}),
      attachment,
      properties: disk.properties,
      ...(disk.image === undefined ? {} : { image: disk.image.path }),
    };
  }

  async #move(to: Place, attachment: DiskAttachment): Promise<MoveResult> {
    const from = this.#place;
    const stay = (reason: string): MoveResult => {
      to.leave();
      return { moved: false, reason };
    };
    const unprepared = await this.#prepare(to.site, attachment);
    if (unprepared !== undefined) return stay(unprepared);
    if (!await from.site.release(this.id, RELEASE_LIMIT_MS)) {
      return stay("what is in flight was not finished in time");
    }
    const sinceMs = this.#now();
    const failure = await this.#reopen(to, attachment);
    if (failure !== undefined) return stay(failure);
    from.leave();
    this.#spec.moved?.();
    return { moved: true, pausedMs: this.#now() - sinceMs };
  }

  /** Why the new reactor cannot open the ring now, if it cannot. */
  async #prepare(site: Site, attachment: DiskAttachment): Promise<string | undefined> {
    const late = Promise.withResolvers<string>();
    const timer = setTimeout(
      () => late.resolve("the thread was too busy to load its disk's modules"),
      PREPARE_LIMIT_MS,
    );
    const closing = this.#closeAsked.promise.then(() => "it is being closed");
    try {
      return await Promise.race([site.prepare(attachment).then(() => undefined, errorText), closing, late.promise]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Opens the released ring at its new place, else at its old one. Returns why it is not at the new one, if it is not. */
  async #reopen(to: Place, attachment: DiskAttachment): Promise<string | undefined> {
    const old = { place: this.#place, attachment: this.#attachment };
    let reason = "";
    for (let attempt = 0; attempt < 2 * ROUNDS; attempt++) {
      const next = attempt % 2 === 0 ? { place: to, attachment } : old;
      const limitMs = attempt === 2 * ROUNDS - 1 ? undefined : BEGIN_LIMIT_MS;
      try {
        await next.place.site.open(this, this.#requestFor(next.attachment, true), undefined, limitMs);
        this.#place = next.place;
        this.#attachment = next.attachment;
        return next.place === to ? undefined : reason;
      } catch (error) {
        reason = errorText(error);
        if (error instanceof QueueLostError) return reason; // whoever reports the death takes care of its queues
      }
    }
    this.stop(`no thread could go on with the ring: ${reason}`);
    return reason;
  }
}
