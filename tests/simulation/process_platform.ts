/**
 * The simulated hypervisor as one process sees it. Keeps account of everything that the process holds, so that leaks
 * are found when it ends, and so that everything can be released as the kernel does. Parking never blocks; the
 * simulation asks whether the process would wake.
 */

import { PAGE_BYTES } from "../../lib/units.ts";
import {
  type DomId,
  type EventChannels,
  type EvtchnPort,
  type GrantTable,
  type OwnedMemory,
  type Parker,
  type Platform,
  type Wakeable,
  type WakeToken,
} from "../../lib/hypervisor.ts";
import { enterPark, leavePark, NOTIFIED } from "../../lib/park_word.ts";
import { hasFired } from "../../lib/sim/events.ts";
import { SimulatedGrantTable } from "../../lib/sim/grants.ts";
import { Machine } from "../../lib/sim/machine.ts";
import type { SimulatedDescriptor } from "../../lib/sim/platform.ts";
import { reachCrashPoint } from "./crash_points.ts";

/** Journals, which outlive processes: pages by name. */
export type JournalAccount = Map<string, number>;

/** The platform of one process. */
export class ProcessPlatform {
  /** For the process. */
  readonly platform: Platform;
  /** Handles that it released while something of theirs was in use, in words. */
  readonly careless: string[] = [];
  readonly #inner: Platform;
  readonly #held = new Map<Disposable, string>();
  readonly #parkers = new Set<SteppedParker>();
  #ended = false;

  /** `now` is the clock of the process. */
  constructor(inner: Platform, journals: JournalAccount, now: () => number) {
    this.#inner = inner;
    this.platform = {
      descriptor: inner.descriptor,
      memory: {
        allocate: (lengthBytes) => this.#allocate(lengthBytes),
        view: (address, lengthBytes) => inner.memory.view(address, lengthBytes),
      },
      journals: {
        open: (name, lengthBytes) => {
          this.#assertAlive();
          journals.set(name, Math.ceil(lengthBytes / PAGE_BYTES));
          return inner.journals.open(name, lengthBytes);
        },
        remove: (name) => {
          this.#assertAlive();
          journals.delete(name);
          inner.journals.remove(name);
        },
        names: () => inner.journals.names(),
        lock: (name) => this.#lock(name),
      },
      openGrantTable: (guest) => this.#openGrantTable(guest),
      openEventChannels: (other) => this.#openEventChannels(other),
      openGrantShares: () => inner.openGrantShares(),
      createWakeToken: () => this.#createWakeToken(),
      openParker: (token) => this.#openParker(token),
      openWaker: (token) => inner.openWaker(token),
      now,
    };
  }

  /** What it still holds, in words. */
  get held(): string[] {
    return [...this.#held.values()];
  }

  /** Of each parker, in the order in which they were opened: whether a park would return at once. */
  get wouldWake(): boolean[] {
    return [...this.#parkers].map((parker) => parker.wouldWake);
  }

  /** Releases everything, as the kernel does when a process ends; afterwards every call fails. */
  releaseAll(): void {
    this.#ended = true;
    for (const thing of [...this.#held.keys()].reverse()) thing[Symbol.dispose]();
    this.#held.clear();
  }

  /** Continuations of a process that has ended must have no effect. */
  #assertAlive(): void {
    if (this.#ended) throw new Error("the process has ended");
  }

  #hold<T extends Disposable>(thing: T, what: string): T {
    this.#held.set(thing, what);
    return thing;
  }

  #release(thing: Disposable): void {
    this.#held.delete(thing);
    thing[Symbol.dispose]();
  }

  #allocate(lengthBytes: number): OwnedMemory {
    this.#assertAlive();
    const memory = this.#hold(this.#inner.memory.allocate(lengthBytes), `${lengthBytes} bytes of memory`);
    return { address: memory.address, view: memory.view, [Symbol.dispose]: () => this.#release(memory) };
  }

  #lock(name: string): Disposable | undefined {
    this.#assertAlive();
    const lock = this.#inner.journals.lock(name);
    if (lock === undefined) return undefined;
    this.#hold(lock, `the lock ${name}`);
    return { [Symbol.dispose]: () => this.#release(lock) };
  }

  #openGrantTable(guest: DomId): GrantTable {
    this.#assertAlive();
    const table = this.#hold(this.#inner.openGrantTable(guest), `the grant table of domain ${guest}`);
    const mapped = (): number => table instanceof SimulatedGrantTable ? table.mappedPages : 0;
    return {
      setMaxGrants: (count) => table.setMaxGrants(count),
      mapPages: (refs, writable) => {
        this.#assertAlive();
        return table.mapPages(refs, writable);
      },
      map: (refs, first, count, writable, addresses) => {
        this.#assertAlive();
        return table.map(refs, first, count, writable, addresses);
      },
      unmap: (address, count) => table.unmap(address, count),
      createCopyBatch: (capacity) => table.createCopyBatch(capacity),
      [Symbol.dispose]: () => {
        if (mapped() > 0) this.careless.push(`the grants of domain ${guest} with ${mapped()} pages mapped`);
        this.#release(table);
      },
    };
  }

  #openEventChannels(other: DomId): EventChannels {
    this.#assertAlive();
    const channels = this.#hold(this.#inner.openEventChannels(other), `the event channels of domain ${other}`);
    const bound = new Set<EvtchnPort>();
    const remember = (port: EvtchnPort): EvtchnPort => {
      bound.add(port);
      return port;
    };
    return {
      fd: channels.fd,
      fired: () => channels.fired(),
      bindInterdomain: (domain, port) => {
        this.#assertAlive();
        return remember(channels.bindInterdomain(domain, port));
      },
      bindUnbound: (domain) => remember(channels.bindUnbound(domain)),
      notify: (port) => {
        reachCrashPoint();
        channels.notify(port);
      },
      unbind: (port) => {
        channels.unbind(port);
        bound.delete(port);
      },
      take: (ports) => channels.take(ports),
      [Symbol.dispose]: () => {
        if (bound.size > 0) this.careless.push(`the event channels of domain ${other} with ${bound.size} bound`);
        this.#release(channels);
      },
    };
  }

  #createWakeToken(): WakeToken & Disposable {
    this.#assertAlive();
    const token = this.#hold(this.#inner.createWakeToken(), "a wake token");
    return { word: token.word, fd: token.fd, [Symbol.dispose]: () => this.#release(token) };
  }

  #openParker(token: WakeToken): Parker {
    this.#assertAlive();
    const parker = this.#hold(this.#inner.openParker(token), "a parker");
    const { machine } = this.#inner.descriptor as SimulatedDescriptor;
    const stepped = new SteppedParker(parker, new Machine(machine), token, () => {
      this.#parkers.delete(stepped);
      this.#release(parker);
    });
    this.#parkers.add(stepped);
    return stepped;
  }
}

/** A Parker that never blocks. */
class SteppedParker implements Parker {
  readonly #inner: Parker;
  readonly #machine: Machine;
  /** The word of the machine that the token stands for. */
  readonly #word: Int32Array;
  readonly #watched = new Set<Wakeable>();
  readonly #dispose: () => void;

  constructor(inner: Parker, machine: Machine, token: WakeToken, dispose: () => void) {
    this.#inner = inner;
    this.#machine = machine;
    this.#word = machine.wakeWord(new Int32Array(token.word)[0]!);
    this.#dispose = dispose;
  }

  get wouldWake(): boolean {
    if (Atomics.load(this.#word, 0) === NOTIFIED) return true;
    for (const { fd } of this.#watched) if (hasFired(this.#machine, fd)) return true;
    return false;
  }

  watch(source: Wakeable): void {
    this.#inner.watch(source);
    this.#watched.add(source);
  }

  unwatch(source: Wakeable): void {
    this.#inner.unwatch(source);
    this.#watched.delete(source);
  }

  park(_timeoutMs: number): void {
    if (enterPark(this.#word)) leavePark(this.#word);
  }

  [Symbol.dispose](): void {
    this.#dispose();
  }
}
