/**
 * Journals of a simulated machine: memory of the machine that stays when a simulated process ends. Only the thread that
 * opened a journal, the control plane's, can find it by name; other threads get its address.
 */

import type { JournalStore, KeptMemory, MemorySpace, OwnedMemory } from "../hypervisor.ts";

const stores = new WeakMap<SharedArrayBuffer, JournalStore>();

/** The machine's journals, one store per thread. */
export function journalsOf(machine: SharedArrayBuffer, memory: MemorySpace): JournalStore {
  let store = stores.get(machine);
  if (store === undefined) stores.set(machine, store = new SimulatedJournals(memory));
  return store;
}

class SimulatedJournals implements JournalStore {
  readonly #memory: MemorySpace;
  readonly #kept = new Map<string, OwnedMemory>();
  readonly #locked = new Set<string>();

  constructor(memory: MemorySpace) {
    this.#memory = memory;
  }

  open(name: string, lengthBytes: number): KeptMemory {
    let kept = this.#kept.get(name);
    if (kept?.view.byteLength !== lengthBytes) {
      this.remove(name);
      kept = this.#memory.allocate(lengthBytes);
      kept.view.fill(0);
      this.#kept.set(name, kept);
    }
    const { address, view } = kept;
    const release = (offsetBytes: number, length: number): void => void view.fill(0, offsetBytes, offsetBytes + length);
    return { address, view, reserve: () => {}, release, [Symbol.dispose]: () => {} };
  }

  names(): string[] {
    return [...this.#kept.keys(), ...this.#locked];
  }

  remove(name: string): void {
    this.#kept.get(name)?.[Symbol.dispose]();
    this.#kept.delete(name);
  }

  lock(name: string): Disposable | undefined {
    if (this.#locked.has(name)) return undefined;
    this.#locked.add(name);
    return { [Symbol.dispose]: () => void this.#locked.delete(name) };
  }
}
