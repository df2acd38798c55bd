/**
 * The visits of raw disks in storage daemons. A job, an export or a snapshot needs a daemon; a disk that has none enters
 * one for that, and leaves it when nobody needs it any more: the guest's requests wait for a moment both times. Whoever
 * needs it holds the visit: a caller while it works, a job until it is over. What an earlier process has left in a daemon
 * leaves it in the same way. A disk whose leaving fails stays, served as well, and it is tried again.
 */

import { type Clock, SYSTEM_CLOCK } from "../clock.ts";
import { errorText, XenblkError } from "../errors.ts";
import type { Logger } from "../log.ts";

/** The waits before a disk that could not leave is tried again. */
const FIRST_WAIT_MS = 1_000;
const LONGEST_WAIT_MS = 300_000;

/** A disk whose image is open. */
export interface VisitedDisk {
  /** A storage daemon serves it. */
  readonly inDaemon: boolean;
  /** It does so for a visit only. */
  readonly visits: boolean;
  /** Its guest is connected. */
  readonly used: boolean;
}

/** How long the guest's requests waited. */
export interface Pause {
  readonly pausedMs: number;
}

/** The disks of a process, by the labels of their devices. */
export interface VisitDisks {
  /** Undefined: there is none, or its image is not open. */
  look(device: string): VisitedDisk | undefined;
  /** A job of it is not over. */
  hasJob(device: string): boolean;
  /** Has its storage daemon serve it, or not. Rejects with {@linkcode XenblkError}: then it is served as before. */
  move(device: string, toDaemon: boolean): Promise<Pause>;
}

/** What visits are made of. */
export interface VisitsOptions {
  readonly disks: VisitDisks;
  readonly logger: Logger;
  /** The process ends: nobody leaves any more. */
  readonly ending: AbortSignal;
  readonly clock?: Clock;
}

/** A need of a storage daemon, until it is disposed. */
export interface Visit extends Disposable {
  /** The disk has entered its daemon for this one. Absent: it was there. */
  readonly entered?: Pause;
}

/** Where the visit of a disk stands. */
export interface VisitState {
  /** It is in its daemon for a visit. */
  readonly visits: boolean;
  /** How it left, if that was the last that happened. */
  readonly left?: Pause;
  /** Why it could not leave yet. */
  readonly trouble?: string;
}

/** What is known of a device that has visited a daemon. */
interface Known {
  /** What those who hold the visit need it for. */
  readonly holds: Set<{ readonly why: string }>;
  /** Its turns come one after the other. */
  turn: Promise<unknown>;
  /** A turn that may let it leave is to come. */
  checking: boolean;
  /** It is tried again later. */
  waiting: boolean;
  waitMs: number;
  left?: Pause | undefined;
  trouble?: string | undefined;
}

/** The visits of one process. */
export class Visits implements AsyncDisposable {
  readonly #options: VisitsOptions;
  readonly #clock: Clock;
  readonly #known = new Map<string, Known>();
  readonly #stop = new AbortController();

  constructor(options: VisitsOptions) {
    this.#options = options;
    this.#clock = options.clock ?? SYSTEM_CLOCK;
  }

  /**
   * Has the disk in its storage daemon until the result is disposed, and longer if a job has begun. `why` is for messages:
   * `back up vbd3/5/51712`. Rejects with {@linkcode XenblkError}; it is then served as before.
   */
  async enter(device: string, why: string): Promise<Visit> {
    const known = this.#of(device);
    const hold = { why };
    known.holds.add(hold);
    const letGo = (): void => {
      known.holds.delete(hold);
      this.check(device);
    };
    try {
      const entered = await inTurn(known, () => this.#enter(device, why, known));
      return { ...(entered === undefined ? {} : { entered }), [Symbol.dispose]: letGo };
    } catch (error) {
      letGo();
      throw error;
    }
  }

  /**
   * What the disk is needed in its daemon for at present, apart from jobs that have begun: `export vbd3/5/51712`. Also while
   * it enters for that, and if it was there. Undefined: nothing.
   */
  heldTo(device: string): string | undefined {
    const [hold] = this.#known.get(device)?.holds ?? [];
    return hold?.why;
  }

  /** Lets the disk leave its daemon if nobody needs that any more. Costs little if there is nothing to do. */
  check(device: string): void {
    if (!this.#mayLeave(device)) return;
    const known = this.#of(device);
    if (known.checking || known.waiting) return;
    known.checking = true;
    void inTurn(known, () => this.#leave(device, known));
  }

  /** Where the disk stands, once it neither enters nor leaves. */
  async settled(device: string): Promise<VisitState> {
    const known = this.#known.get(device);
    await known?.turn;
    const { left, trouble } = known ?? {};
    return {
      visits: this.#options.disks.look(device)?.visits === true,
      ...(left === undefined ? {} : { left }),
      ...(trouble === undefined ? {} : { trouble }),
    };
  }

  /** Nobody leaves any more. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await Promise.all([...this.#known.values()].map(({ turn }) => turn));
  }

  #of(device: string): Known {
    let known = this.#known.get(device);
    if (known === undefined) {
      known = { holds: new Set(), turn: Promise.resolve(), checking: false, waiting: false, waitMs: FIRST_WAIT_MS };
      this.#known.set(device, known);
    }
    return known;
  }

  #mayLeave(device: string): boolean {
    const { disks, ending } = this.#options;
    if (this.#stop.signal.aborted || ending.aborted || this.heldTo(device) !== undefined) return false;
    const disk = disks.look(device);
    return disk !== undefined && disk.visits && disk.used && !disks.hasJob(device);
  }

  async #enter(device: string, why: string, known: Known): Promise<Pause | undefined> {
    const { disks, logger } = this.#options;
    known.waitMs = FIRST_WAIT_MS;
    known.waiting = false;
    known.left = known.trouble = undefined;
    const disk = disks.look(device);
    if (disk === undefined || disk.inDaemon) return undefined;
    try {
      const pause = await disks.move(device, true);
      logger.info(`${device}: it has entered its storage daemon, to ${why}: ${textOf(pause)}`);
      return pause;
    } catch (error) {
      if (!(error instanceof XenblkError)) throw error;
      const { kind, remedy } = error;
      throw new XenblkError(`Cannot ${why}: its storage daemon cannot take it over: ${error.message}`, {
        cause: error,
        kind,
        ...(remedy === undefined ? {} : { remedy }),
      });
    }
  }

  async #leave(device: string, known: Known): Promise<void> {
    known.checking = false;
    if (!this.#mayLeave(device)) return;
    const { disks, logger, ending } = this.#options;
    try {
      known.left = await disks.move(device, false);
      known.trouble = undefined;
      known.waitMs = FIRST_WAIT_MS;
      logger.info(`${device}: it has left its storage daemon: ${textOf(known.left)}`);
    } catch (error) {
      if (ending.aborted || disks.look(device)?.visits !== true) return;
      const text = errorText(error);
      if (text !== known.trouble) logger.warning(`${device}: it stays in its storage daemon for now: ${text}`);
      known.trouble = text;
      void this.#again(device, known);
    }
  }

  async #again(device: string, known: Known): Promise<void> {
    known.waiting = true;
    await this.#clock.sleep(known.waitMs, this.#stop.signal);
    known.waitMs = Math.min(2 * known.waitMs, LONGEST_WAIT_MS);
    known.waiting = false;
    this.check(device);
  }
}

/** Carries out one call at a time. */
async function inTurn<T>(known: Known, call: () => Promise<T>): Promise<T> {
  const turn = known.turn.then(call);
  known.turn = turn.catch(() => {});
  return await turn;
}

function textOf({ pausedMs }: Pause): string {
  return `requests waited for ${pausedMs.toFixed(1)} ms`;
}
