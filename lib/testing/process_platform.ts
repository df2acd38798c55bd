/**
 * The simulated hypervisor as the threads of one process of domain 0 see it: with the faults that a test injects, and
 * with an end. Once the process was killed, the next call of each of its threads releases what the thread holds, as the
 * kernel does, and throws: a killed process has no effect any more. Blocking calls of a thread are over by then.
 */

import type {
  DomId,
  EventChannels,
  GrantCopyBatch,
  GrantShares,
  GrantTable,
  JournalStore,
  MemorySpace,
  OwnedMemory,
  Parker,
  Platform,
  Waker,
  WakeToken,
} from "../hypervisor.ts";
import { withFaults } from "../sim/faults.ts";
import { openSimulatedPlatform, type SimulatedDescriptor } from "../sim/platform.ts";
import { InjectedFaults } from "./injected_faults.ts";
import { Life, ProcessKilledError } from "./life.ts";

/** Names a process's view of a machine. */
export interface ProcessDescriptor extends SimulatedDescriptor {
  /** See {@linkcode Life}. */
  readonly life: SharedArrayBuffer;
  /** See {@linkcode InjectedFaults}. */
  readonly faults: SharedArrayBuffer;
}

/** One thread's view. */
export class ProcessPlatform implements Platform {
  readonly descriptor: ProcessDescriptor;
  readonly memory: MemorySpace;
  readonly journals: JournalStore;
  readonly #inner: Platform;
  readonly #life: Life;
  /** What the kernel releases when this thread dies. */
  readonly #held = new Set<Disposable>();
  #parks = false;
  #died = false;

  constructor(descriptor: ProcessDescriptor) {
    this.descriptor = descriptor;
    this.#life = new Life(descriptor.life);
    const platform = openSimulatedPlatform(descriptor.machine, descriptor.domain);
    this.#inner = withFaults(platform, new InjectedFaults(descriptor.faults).plan);
    this.memory = {
      allocate: (lengthBytes) => this.#allocate(lengthBytes),
      view: (address, lengthBytes) => platform.memory.view(address, lengthBytes),
    };
    this.journals = platform.journals;
  }

  openGrantTable(guest: DomId): GrantTable {
    this.#live();
    const table = this.#hold(this.#inner.openGrantTable(guest));
    return {
      setMaxGrants: (count) => table.setMaxGrants(count),
      mapPages: (refs, writable) => {
        this.#live();
        return table.mapPages(refs, writable);
      },
      map: (refs, first, count, writable, addresses) => {
        this.#live();
        return table.map(refs, first, count, writable, addresses);
      },
      unmap: (address, count) => this.#died ? 0 : table.unmap(address, count),
      createCopyBatch: (capacity) => new ProcessCopyBatch(table.createCopyBatch(capacity), () => this.#live()),
      [Symbol.dispose]: () => this.#release(table),
    };
  }

  openEventChannels(other: DomId): EventChannels {
    this.#live();
    const channels = this.#hold(this.#inner.openEventChannels(other));
    return {
      fd: channels.fd,
      fired: () => channels.fired(),
      bindInterdomain: (domain, port) => {
        this.#live();
        return channels.bindInterdomain(domain, port);
      },
      bindUnbound: (domain) => channels.bindUnbound(domain),
      notify: (port) => {
        this.#live(true);
        channels.notify(port);
      },
      unbind: (port) => this.#died ? undefined : channels.unbind(port),
      take: (ports) => {
        this.#live();
        return channels.take(ports);
      },
      [Symbol.dispose]: () => this.#release(channels),
    };
  }

  openGrantShares(): GrantShares {
    return this.#inner.openGrantShares();
  }

  createWakeToken(): WakeToken & Disposable {
    this.#live();
    return this.#inner.createWakeToken();
  }

  openParker(token: WakeToken): Parker {
    this.#live();
    const parker = this.#inner.openParker(token);
    this.#parks = true;
    this.#life.threadBegan();
    return {
      watch: (source) => parker.watch(source),
      unwatch: (source) => this.#died ? undefined : parker.unwatch(source),
      park: (timeoutMs) => {
        this.#live();
        parker.park(timeoutMs);
        this.#live();
      },
      [Symbol.dispose]: () => {
        if (!this.#parks) return;
        this.#parks = false;
        parker[Symbol.dispose]();
        this.#life.threadEnded();
      },
    };
  }

  /** Waking a thread of a killed process does no harm, and lets it see that it is dead. */
  openWaker(token: WakeToken): Waker {
    return this.#inner.openWaker(token);
  }

  /** I/O Workers look at the clock before and after each job: a killed one does no more. */
  now(): number {
    this.#live();
    return this.#inner.now();
  }

  #allocate(lengthBytes: number): OwnedMemory {
    this.#live();
    const memory = this.#inner.memory.allocate(lengthBytes);
    const entry = this.#life.allocated(memory.address, lengthBytes);
    return {
      address: memory.address,
      view: memory.view,
      [Symbol.dispose]: () => {
        // I/O may still be under way in the pages of a killed process: they are taken back when all its threads ended.
        if (this.#life.freed(entry)) memory[Symbol.dispose]();
      },
    };
  }

  /** Throws {@linkcode ProcessKilledError} in a process that was killed, or that dies now because it notifies a guest. */
  #live(notifies = false): void {
    try {
      if (notifies) this.#life.assertAtNotify();
      else this.#life.assert();
    } catch (error) {
      if (error instanceof ProcessKilledError) this.#die();
      throw error;
    }
  }

  #die(): void {
    if (this.#died) return;
    this.#died = true;
    for (const held of this.#held) held[Symbol.dispose]();
    this.#held.clear();
    if (!this.#parks) return;
    this.#parks = false;
    this.#life.threadEnded();
  }

  #hold<T extends Disposable>(thing: T): T {
    this.#held.add(thing);
    return thing;
  }

  #release(thing: Disposable): void {
    if (this.#held.delete(thing)) thing[Symbol.dispose]();
  }
}

/** Copies that a killed process does not make. */
class ProcessCopyBatch implements GrantCopyBatch {
  readonly capacity: number;
  readonly #batch: GrantCopyBatch;
  readonly #live: () => void;

  constructor(batch: GrantCopyBatch, live: () => void) {
    this.capacity = batch.capacity;
    this.#batch = batch;
    this.#live = live;
  }

  get length(): number {
    return this.#batch.length;
  }

  clear(): void {
    this.#batch.clear();
  }

  addFromGuest(ref: number, offsetBytes: number, localAddress: number, lengthBytes: number): void {
    this.#batch.addFromGuest(ref, offsetBytes, localAddress, lengthBytes);
  }

  addToGuest(ref: number, offsetBytes: number, localAddress: number, lengthBytes: number): void {
    this.#batch.addToGuest(ref, offsetBytes, localAddress, lengthBytes);
  }

  run(): number {
    this.#live();
    return this.#batch.run();
  }

  status(index: number): number {
    return this.#batch.status(index);
  }

  [Symbol.dispose](): void {
    this.#batch[Symbol.dispose]();
  }
}
