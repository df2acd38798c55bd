/**
 * Event channels of the simulated machine. Raising, looking and taking take no lock and work across Workers; binding
 * and unbinding hold the machine's lock. A port is pending from its raise until it is taken, so raises merge, and
 * taking unmasks at once.
 */

import { XenblkError } from "../errors.ts";
import type { DomId, EventChannels, EvtchnPort } from "../hypervisor.ts";
import { claimWake } from "../park_word.ts";
import { FIRST_PORT, type Machine, SETS } from "./machine.ts";

/** Words of a port's entry. */
const STATE = 0;
const REMOTE_DOMAIN = 1;
const REMOTE_PORT = 2;
const PENDING = 3;
/** The set of channels that the port belongs to, plus 1; 0 is none. */
const SET = 4;

const FREE = 0;
/** Waits for {@link REMOTE_DOMAIN} to bind. */
const UNBOUND = 1;
const INTERDOMAIN = 2;

/** Words of a set of channels: one open handle. Word 0 is the machine's mark that it is taken. */
const SET_FIRED = 1;
/** The wake word of the thread that parks on it, plus 1; 0 is none. */
const SET_WATCHER = 2;

/**
 * In place of a descriptor, a set of channels has this number and its own: no descriptor of the process is so large, so
 * that a parker tells them apart.
 */
const FIRST_SET_FD = 2 ** 30;

/** Whether that stands for a set of channels. */
export function isSet(fd: number): boolean {
  return Number.isInteger(fd) && fd >= FIRST_SET_FD && fd < FIRST_SET_FD + SETS;
}

/** Raises a port: its set has fired, and who parks on the set wakes. */
function raise(machine: Machine, entry: number): void {
  const { words } = machine;
  Atomics.store(words, entry + PENDING, 1);
  const set = Atomics.load(words, entry + SET);
  if (set === 0) return;
  const setEntry = machine.setEntry(set - 1);
  Atomics.store(words, setEntry + SET_FIRED, 1);
  const watcher = Atomics.load(words, setEntry + SET_WATCHER);
  if (watcher !== 0) rouse(machine.wakeWord(watcher - 1));
}

/** Wakes the thread that parks with this word. */
export function rouse(word: Int32Array): void {
  if (claimWake(word)) Atomics.notify(word, 0);
}

/** Whether a set of channels has ports that were not taken yet (or one that was unbound since). */
export function hasFired(machine: Machine, fd: number): boolean {
  return Atomics.load(machine.words, machine.setEntry(fd - FIRST_SET_FD) + SET_FIRED) !== 0;
}

/** Makes events of a set wake the thread with this wake word (an index); -1 for none. */
export function setWatcher(machine: Machine, fd: number, wakeWord: number): void {
  Atomics.store(machine.words, machine.setEntry(fd - FIRST_SET_FD) + SET_WATCHER, wakeWord + 1);
}

/** Frees a port; the other end falls back to "unbound, for this domain", and can be bound again. */
function closeLocked(machine: Machine, domain: number, port: number): void {
  const { words } = machine;
  const entry = machine.portEntry(domain, port);
  if (words[entry + STATE] === INTERDOMAIN) {
    const remote = machine.portEntry(words[entry + REMOTE_DOMAIN]!, words[entry + REMOTE_PORT]!);
    words[remote + REMOTE_DOMAIN] = domain;
    Atomics.store(words, remote + STATE, UNBOUND);
  }
  Atomics.store(words, entry + STATE, FREE);
  Atomics.store(words, entry + SET, 0);
  Atomics.store(words, entry + PENDING, 0);
}

/** Closes all ports of a destroyed domain. */
export function closeDomainPorts(machine: Machine, domain: DomId): void {
  machine.exclusively(() => {
    for (let port = FIRST_PORT; port < machine.portsPerDomain; port++) {
      if (machine.words[machine.portEntry(domain, port) + STATE] !== FREE) closeLocked(machine, domain, port);
    }
  });
}

/** An open handle: see {@linkcode EventChannels}. It never reports an overflow; faults.ts can. */
export class SimulatedEventChannels implements EventChannels {
  readonly #machine: Machine;
  readonly #domain: DomId;
  readonly #other: DomId;
  readonly #set: number;
  readonly #setEntry: number;
  /** Our ports, and which of the table's entries they are; both hold `#count`. */
  #ports = new Uint32Array(8);
  #entries = new Uint32Array(8);
  #count = 0;
  #disposed = false;

  constructor(machine: Machine, domain: DomId, other: DomId) {
    this.#machine = machine;
    this.#domain = domain;
    this.#other = other;
    this.#set = machine.takeSet();
    this.#setEntry = machine.setEntry(this.#set);
  }

  /** Stands for the set of channels: see {@linkcode isSet}. */
  get fd(): number {
    return FIRST_SET_FD + this.#set;
  }

  /** {@linkcode take} looks at the machine itself. */
  fired(): void {}

  /** Throws {@linkcode XenblkError} unless the remote port waits for this domain. */
  bindInterdomain(remoteDomain: DomId, remotePort: EvtchnPort): EvtchnPort {
    const machine = this.#machine;
    const { words } = machine;
    const refuse = (why: string): never => {
      throw new XenblkError(`Cannot bind event channel ${remotePort} of domain ${remoteDomain}: ${why}`);
    };
    if (remoteDomain !== this.#other) refuse(`the handle is for domain ${this.#other}`);
    if (remotePort < FIRST_PORT || remotePort >= machine.portsPerDomain) refuse("there is no such port");
    const remote = machine.portEntry(remoteDomain, remotePort);
    const port = machine.exclusively(() => {
      if (words[remote + STATE] !== UNBOUND) refuse("it is not waiting to be bound");
      if (words[remote + REMOTE_DOMAIN] !== this.#domain) refuse("it waits for another domain");
      const port = this.#takePortLocked(remoteDomain, remotePort, INTERDOMAIN);
      words[remote + REMOTE_PORT] = port;
      Atomics.store(words, remote + STATE, INTERDOMAIN);
      return port;
    });
    // An event may have been sent before the other end was bound.
    raise(machine, machine.portEntry(this.#domain, port));
    return port;
  }

  bindUnbound(remoteDomain: DomId): EvtchnPort {
    return this.#machine.exclusively(() => this.#takePortLocked(remoteDomain, 0, UNBOUND));
  }

  notify(port: EvtchnPort): void {
    const { words } = this.#machine;
    const entry = this.#entries[this.#indexOf(port, "notify")]!;
    // An event is dropped while the other end is not bound, as Xen does.
    if (Atomics.load(words, entry + STATE) !== INTERDOMAIN) return;
    raise(this.#machine, this.#machine.portEntry(words[entry + REMOTE_DOMAIN]!, words[entry + REMOTE_PORT]!));
  }

  unbind(port: EvtchnPort): void {
    const index = this.#indexOf(port, "unbind");
    this.#machine.exclusively(() => closeLocked(this.#machine, this.#domain, port));
    this.#count--;
    this.#ports[index] = this.#ports[this.#count]!;
    this.#entries[index] = this.#entries[this.#count]!;
  }

  take(ports: Uint32Array): number {
    const { words } = this.#machine;
    if (Atomics.load(words, this.#setEntry + SET_FIRED) === 0) return 0;
    // Cleared before looking: a port that is raised behind our back sets it again.
    Atomics.store(words, this.#setEntry + SET_FIRED, 0);
    let taken = 0;
    for (let i = 0; i < this.#count; i++) {
      const entry = this.#entries[i]!;
      if (Atomics.load(words, entry + PENDING) === 0) continue;
      if (taken === ports.length) {
        Atomics.store(words, this.#setEntry + SET_FIRED, 1);
        break;
      }
      Atomics.store(words, entry + PENDING, 0);
      ports[taken++] = this.#ports[i]!;
    }
    return taken;
  }

  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    while (this.#count > 0) this.unbind(this.#ports[0]! as EvtchnPort);
    this.#machine.freeSet(this.#set);
  }

  #takePortLocked(remoteDomain: DomId, remotePort: number, state: number): EvtchnPort {
    const { words, portsPerDomain } = this.#machine;
    for (let port = FIRST_PORT; port < portsPerDomain; port++) {
      const entry = this.#machine.portEntry(this.#domain, port);
      if (words[entry + STATE] !== FREE) continue;
      words[entry + REMOTE_DOMAIN] = remoteDomain;
      words[entry + REMOTE_PORT] = remotePort;
      Atomics.store(words, entry + PENDING, 0);
      Atomics.store(words, entry + SET, this.#set + 1);
      Atomics.store(words, entry + STATE, state);
      this.#remember(port, entry);
      return port as EvtchnPort;
    }
    throw new XenblkError(`Cannot take an event channel: domain ${this.#domain} has none left`);
  }

  #remember(port: number, entry: number): void {
    if (this.#count === this.#ports.length) {
      const [ports, entries] = [this.#ports, this.#entries];
      this.#ports = new Uint32Array(2 * this.#count);
      this.#entries = new Uint32Array(2 * this.#count);
      this.#ports.set(ports);
      this.#entries.set(entries);
    }
    this.#ports[this.#count] = port;
    this.#entries[this.#count] = entry;
    this.#count++;
  }

  #indexOf(port: number, verb: string): number {
    for (let i = 0; i < this.#count; i++) if (this.#ports[i] === port) return i;
    throw new XenblkError(`Cannot ${verb} event channel ${port}: it is not bound by this handle`);
  }
}
