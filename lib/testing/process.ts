/**
 * A process of domain 0 on a simulated host: what it may use, an account of what it holds, and its sudden end, in which
 * the kernel takes all of that back, as after `kill -9`.
 */

import type { Clock } from "../clock.ts";
import type { HostPlatform } from "../host_platform.ts";
import type { DomId, JournalStore, LockableImage, WakeToken, Xenstore } from "../hypervisor.ts";
import type { Logger } from "../log.ts";
import { Machine } from "../sim/machine.ts";
import type { SimulatedStore } from "../sim/xenstore.ts";
import type { ImageLocks, ImageUse } from "../storage/image/lock.ts";
import { ProcessClock } from "./clock.ts";
import type { InjectedFaults } from "./injected_faults.ts";
import { Life, ProcessKilledError } from "./life.ts";
import { type ProcessDescriptor, ProcessPlatform } from "./process_platform.ts";

const DOM0 = 0 as DomId;

/** The host of a process. */
export interface ProcessHost {
  readonly machine: SharedArrayBuffer;
  readonly store: SimulatedStore;
  readonly faults: InjectedFaults;
  /** Among all processes of the host. */
  readonly imageLocks: ImageLocks;
  /** Absent: the system's. */
  readonly clock: Clock | undefined;
}

/** What of a process runs beside its main thread. */
export interface ProcessThreads {
  /** Ends those that are left. */
  readonly threads: AsyncDisposable;
  /** Files that are open. */
  readonly images: ReadonlySet<AsyncDisposable>;
}

/** One process. */
export class SimulatedProcess {
  /** What it may use. */
  readonly platform: HostPlatform;
  readonly clock: ProcessClock;
  readonly #host: ProcessHost;
  readonly #life = Life.begin();
  readonly #stores = new Set<Xenstore>();
  readonly #tokens = new Set<WakeToken & Disposable>();
  readonly #locks = new Set<Disposable>();
  readonly #imageLocks = new Set<AsyncDisposable>();

  constructor(host: ProcessHost) {
    this.#host = host;
    this.clock = new ProcessClock(host.clock);
    const platform = new ProcessPlatform(processDescriptor(host.machine, this.#life, host.faults));
    const createWakeToken = platform.createWakeToken.bind(platform);
    this.platform = Object.assign(platform, {
      journals: this.#journals(platform.journals),
      createWakeToken: () => this.#account(createWakeToken()),
      openXenstore: () => this.#connect(),
      imageLocks: { tryLock: (image: LockableImage, use: ImageUse) => this.#lockImage(image, use) },
    });
  }

  /** Whether it was killed. */
  get killed(): boolean {
    return this.#life.dead;
  }

  /** The lines of a killed process are not heard. */
  heard(logger: Logger): Logger {
    const at = (level: "debug" | "info" | "warning" | "error") => (line: string): void => {
      if (!this.killed) logger[level](line);
    };
    return { debug: at("debug"), info: at("info"), warning: at("warning"), error: at("error") };
  }

  /**
   * Kills it, at once or right before it next notifies a guest. Resolves when all its threads are gone and the kernel has
   * taken back what it held. Journals and nodes stay.
   */
  async kill({ threads, images }: ProcessThreads, beforeNotification: boolean): Promise<void> {
    if (beforeNotification) await this.#life.endAtNotify();
    this.#life.end();
    this.clock.end();
    for (const store of this.#stores) store[Symbol.dispose]();
    for (const token of this.#tokens) this.platform.openWaker(token).wake();
    await this.#life.threadsEnded();
    await threads[Symbol.asyncDispose]();
    for (const image of images) await image[Symbol.asyncDispose]();
    for (const lock of this.#imageLocks) await lock[Symbol.asyncDispose]();
    for (const held of [...this.#locks, ...this.#tokens]) held[Symbol.dispose]();
    const machine = new Machine(this.#host.machine);
    for (const [first, count] of this.#life.takeAll()) machine.freeFrames(first, count);
  }

  #connect(): Xenstore {
    this.#life.assert();
    const store = this.#host.store.connect(DOM0);
    this.#stores.add(store);
    void store.lost.then(() => this.#stores.delete(store));
    return store;
  }

  #account(token: WakeToken & Disposable): WakeToken & Disposable {
    this.#tokens.add(token);
    const { word, fd } = token;
    return {
      word,
      fd,
      [Symbol.dispose]: () => {
        if (this.#tokens.delete(token)) token[Symbol.dispose]();
      },
    };
  }

  #journals(journals: JournalStore): JournalStore {
    const life = this.#life;
    return {
      open: (name, lengthBytes) => {
        life.assert();
        return journals.open(name, lengthBytes);
      },
      names: () => journals.names(),
      remove: (name) => {
        life.assert();
        journals.remove(name);
      },
      lock: (name) => {
        life.assert();
        const lock = journals.lock(name);
        if (lock === undefined) return undefined;
        this.#locks.add(lock);
        return {
          [Symbol.dispose]: () => {
            if (this.#locks.delete(lock)) lock[Symbol.dispose]();
          },
        };
      },
    };
  }

  async #lockImage(image: LockableImage, use: ImageUse): Promise<AsyncDisposable | string> {
    this.#life.assert();
    const lock = await this.#host.imageLocks.tryLock(image, use);
    if (typeof lock === "string") return lock.replace(/^this process/, "another process of this host");
    if (this.killed) {
      await lock[Symbol.asyncDispose]();
      throw new ProcessKilledError();
    }
    this.#imageLocks.add(lock);
    return {
      [Symbol.asyncDispose]: async () => {
        if (this.#imageLocks.delete(lock)) await lock[Symbol.asyncDispose]();
      },
    };
  }
}

/** The descriptor by which the threads of a process open its platform. */
function processDescriptor(machine: SharedArrayBuffer, life: Life, faults: InjectedFaults): ProcessDescriptor {
  const module = new URL("./process_thread.ts", import.meta.url).href;
  return { module, machine, domain: DOM0, life: life.buffer, faults: faults.buffer };
}
