/**
 * What a reactor has open of one guest domain: its event channels, and its grant-table handles. All rings of the guest
 * that the reactor serves share them.
 */

import { type DomId, type EventChannels, EVENTS_OVERFLOWED, type EvtchnPort, type GrantTable } from "../hypervisor.ts";
import type { Parker, Platform, Wakeable } from "../hypervisor.ts";
import { GRANTS_PER_RING } from "./connection.ts";
import { GuestShare } from "./fairness.ts";

/** Ports taken from one guest's event queue per call. */
const PORTS_PER_TAKE = 64;
/** Such calls per guest and turn: a guest whose ports fire as fast as they are unmasked must not keep the turn. */
const TAKES_PER_TURN = 4;
/** Rings for which the limit of one grant-table handle is set when it is opened; more rings get another handle. */
const RINGS_PER_TABLE = 16;

/** A grant-table handle, and how many rings use it. */
export interface GuestTable {
  readonly grants: GrantTable;
  rings: number;
}

/** What an event of a guest is for. */
export interface EventTarget {
  /** It has to be visited. */
  wake(): void;
}

/** A guest domain with rings in one reactor. */
export class Guest<Ring extends EventTarget> implements Disposable {
  readonly events: EventChannels;
  readonly byPort = new Map<EvtchnPort, Ring>();
  /** What its rings weigh. */
  readonly share = new GuestShare();
  /** Its number among the guests of the reactor. */
  index = 0;
  /** One of its rings was closed, and that ring's events may still wait to be taken. */
  hasClosed = false;
  readonly #platform: Platform;
  readonly #tables: GuestTable[] = [];
  readonly #ports = new Uint32Array(PORTS_PER_TAKE);
  /** Every event is reported: nothing has to be taken before. */
  #isReported = false;
  /** The last take found nothing. */
  #isEmpty = false;
  readonly #owned: DisposableStack;

  /** `alert` is called when there may be events to take. Throws what opening the guest's event channels throws. */
  constructor(readonly domain: DomId, platform: Platform, parker: Parker, alert: (guest: Guest<Ring>) => void) {
    this.#platform = platform;
    using undo = new DisposableStack();
    undo.defer(() => this.#tables.forEach(({ grants }) => grants[Symbol.dispose]()));
    this.events = undo.use(platform.openEventChannels(domain));
    const source = this.#source(() => alert(this));
    parker.watch(source);
    undo.defer(() => parker.unwatch(source));
    this.#owned = undo.move();
  }

  /**
   * A handle with room for the grants of one more ring. The limit of a handle is fixed before it maps anything. Throws
   * what opening one throws.
   */
  table(): GuestTable {
    const known = this.#tables.find(({ rings }) => rings < RINGS_PER_TABLE);
    if (known !== undefined) return known;
    using undo = new DisposableStack();
    const grants = undo.use(this.#platform.openGrantTable(this.domain));
    grants.setMaxGrants(RINGS_PER_TABLE * GRANTS_PER_RING);
    undo.move();
    const table = { grants, rings: 0 };
    this.#tables.push(table);
    return table;
  }

  /**
   * Takes the guest's events, a bounded number. True: there may be more. With several ports, bound or just closed, one
   * can fire while the others are taken. A driver that wakes us only when its queue was empty will not do so again until
   * we have seen the queue empty.
   */
  takeEvents(): boolean {
    for (let takes = 0; takes < TAKES_PER_TURN; takes++) {
      const count = this.events.take(this.#ports);
      if (count === EVENTS_OVERFLOWED) this.wakeAll();
      for (let i = 0; i < count; i++) {
        const ring = this.byPort.get(this.#ports[i]! as EvtchnPort);
        ring?.wake();
      }
      this.#isEmpty = count === 0;
      if (count === 0) this.hasClosed = false;
      const several = this.byPort.size > 1 || this.hasClosed;
      if (count !== PORTS_PER_TAKE && !(count > 0 && several)) return false;
    }
    return true;
  }

  wakeAll(): void {
    for (const ring of this.byPort.values()) ring.wake();
  }

  /** There is nothing to take until `alert` is called. */
  get isSilent(): boolean {
    return this.#isReported && this.#isEmpty;
  }

  [Symbol.dispose](): void {
    this.#owned.dispose();
  }

  /** The event channels, and who else hears of their events. */
  #source(alert: () => void): Wakeable {
    const { events } = this;
    const source: Wakeable = {
      fd: events.fd,
      fired: () => {
        events.fired();
        alert();
      },
    };
    if (events.setWatched === undefined) return source;
    const setWatched = (watched: boolean): void => {
      events.setWatched?.(watched);
      this.#isReported = watched;
      alert();
    };
    return { ...source, setWatched };
  }
}
