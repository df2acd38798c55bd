/**
 * One device's latch as the control plane keeps it: in memory that outlives the process, and tied by a nonce in the
 * backend's directory to one attachment of the disk. A process that takes over finds it as the last one left it; the
 * operator clears it by attaching the disk anew, which makes another directory. What trips it is not known here.
 */

import { newNonce, nonceText, parseNonce } from "../nonce.ts";
import { Latch, LATCH_BYTES } from "../dataplane/latch.ts";
import type { JournalStore, OwnedMemory } from "../hypervisor.ts";

/** The backend's node that tells this attachment of the disk from those before it. */
export const ATTACHMENT_NODE = "attachment-nonce";

/** See the file's first lines. Disposing it leaves the memory to the next process. */
export class DeviceLatch implements Disposable {
  readonly #store: JournalStore;
  readonly #name: string;
  #memory: OwnedMemory | undefined;
  #latch: Latch | undefined;

  /** `name` is what the memory is called. */
  constructor(store: JournalStore, name: string) {
    this.#store = store;
    this.#name = name;
  }

  /** A flush failed since the disk was attached. */
  get tripped(): boolean {
    return this.#latch?.tripped ?? false;
  }

  /** Of the memory; after {@linkcode open}. */
  get address(): number {
    return this.#memory!.address;
  }

  /**
   * Makes it that of the attachment whose node says `node`. Returns what the node must say before anything is served,
   * if it does not yet. Throws if the memory cannot be had.
   */
  open(node: string | undefined): string | undefined {
    this.#memory ??= this.#store.open(this.#name, LATCH_BYTES);
    this.#latch ??= new Latch(this.#memory.view);
    const known = parseNonce(node);
    if (known !== undefined && this.#latch.belongsTo(known)) return undefined;
    const nonce = known ?? newNonce();
    this.#latch.begin(nonce);
    return known === undefined ? nonceText(nonce) : undefined;
  }

  /** The attachment is over. */
  forget(): void {
    this[Symbol.dispose]();
    this.#store.remove(this.#name);
  }

  [Symbol.dispose](): void {
    this.#latch = undefined;
    this.#memory?.[Symbol.dispose]();
    this.#memory = undefined;
  }
}
