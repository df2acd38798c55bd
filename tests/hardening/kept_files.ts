/**
 * Real journal files below a small tmpfs for the simulated backend: its control plane and data plane keep journals,
 * latches and locks in files, as they do below /run. Everything else of the host stays simulated.
 */

import { JournalFiles } from "../../ffi/linux/journal_files.ts";
import { libc } from "../../ffi/linux/libc.ts";
import { viewOf } from "../../ffi/linux/memory.ts";
import type { JournalStore, OwnedMemory, Platform } from "../../lib/hypervisor.ts";

/** The simulated machine's addresses are offsets below this; those of mapped files are far above. */
const LEAST_MAPPED_ADDRESS = 2 ** 32;

libc(); // opened outside the tests: a library stays loaded

/** A tmpfs in place of /run. Disposing unmounts it. */
export class SmallRun implements Disposable {
  readonly path: string;

  /** `options` of mount(8), such as `size=64k,nr_inodes=8`. Throws if it cannot be mounted. */
  constructor(options: string) {
    this.path = Deno.makeTempDirSync({ prefix: "xenblk-run-" });
    try {
      run("mount", "-t", "tmpfs", "-o", `${options},mode=700`, "tmpfs", this.path);
    } catch (error) {
      Deno.removeSync(this.path);
      throw error;
    }
  }

  /** Mounts it again with other options, such as `ro`. */
  remount(options: string): void {
    run("mount", "-o", `remount,${options}`, this.path);
  }

  /** Fills it but for `leftBytes`, rounded to pages, until this is called again. */
  fill(leftBytes: number): void {
    const filler = `${this.path}/filler`;
    try {
      Deno.removeSync(filler);
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
    if (leftBytes === Infinity) return;
    const page = new Uint8Array(4096);
    let pages = 0;
    using file = Deno.openSync(filler, { write: true, create: true });
    try {
      for (;;) {
        file.writeSync(page);
        pages++;
      }
    } catch { /* it is full */ }
    file.truncateSync(Math.max(0, pages * 4096 - leftBytes));
  }

  [Symbol.dispose](): void {
    // Lazily: a test that failed may have left files open or mapped.
    run("umount", "-l", this.path);
    Deno.removeSync(this.path);
  }
}

function run(command: string, ...args: string[]): void {
  const { success, stderr } = new Deno.Command(command, { args, stdout: "null", stderr: "piped" }).outputSync();
  if (!success) throw new Error(`${command} failed: ${new TextDecoder().decode(stderr).trim()}`);
}

/** The files of one process. */
export class KeptFiles {
  readonly #files: JournalFiles;
  readonly #removing: (name: string) => void;
  readonly #held = new Set<Disposable>();

  /** `removing` is called before a file is removed. */
  constructor(directory: string, removing: (name: string) => void) {
    this.#files = new JournalFiles(directory);
    this.#removing = removing;
  }

  /** The platform with these files in place of simulated ones. */
  wrap(platform: Platform): Platform {
    const journals: JournalStore = {
      open: (name, lengthBytes) => {
        const { address, view } = this.#hold(this.#files.open(name, lengthBytes));
        return { address, view, reserve: () => {}, release: () => {}, [Symbol.dispose]: () => this.#release(address) };
      },
      names: () => this.#files.names(),
      remove: (name) => {
        this.#removing(name);
        this.#files.remove(name);
      },
      lock: (name) => {
        const lock = this.#files.lock(name);
        return lock && this.#hold(lock);
      },
    };
    const { memory } = platform;
    const view = (address: number, lengthBytes: number): Uint8Array =>
      address < LEAST_MAPPED_ADDRESS ? memory.view(address, lengthBytes) : viewOf(address, lengthBytes);
    return {
      descriptor: platform.descriptor,
      memory: { allocate: (lengthBytes) => memory.allocate(lengthBytes), view },
      journals,
      openGrantTable: (guest) => platform.openGrantTable(guest),
      openEventChannels: (other) => platform.openEventChannels(other),
      openGrantShares: () => platform.openGrantShares(),
      createWakeToken: () => platform.createWakeToken(),
      openParker: (token) => platform.openParker(token),
      openWaker: (token) => platform.openWaker(token),
      now: () => platform.now(),
    };
  }

  /** The process was killed: the kernel unmaps and unlocks its files, and removes none. */
  killed(): void {
    for (const held of this.#held) held[Symbol.dispose]();
    this.#held.clear();
  }

  #hold<T extends Disposable>(held: T): T {
    this.#held.add(held);
    return held;
  }

  #release(address: number): void {
    for (const held of this.#held as Set<OwnedMemory>) {
      if (held.address !== address) continue;
      this.#held.delete(held);
      held[Symbol.dispose]();
    }
  }
}

/** Why tests cannot mount a tmpfs here; undefined if they can. */
export const CANNOT_MOUNT: string | undefined = Deno.build.os !== "linux"
  ? "this is not Linux"
  : Deno.uid() !== 0
  ? "mounting a tmpfs needs root"
  : refusal();

function refusal(): string | undefined {
  try {
    using _mounted = new SmallRun("size=64k");
    return undefined;
  } catch (error) {
    return String(error);
  }
}
