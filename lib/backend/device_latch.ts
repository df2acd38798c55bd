/**
 * The latch of one device after a failed flush, in memory that outlives the process. A nonce in the backend's directory
 * ties it to one attachment of the disk: the next process finds it as the last one left it, and the operator clears it
 * by attaching the disk again, which makes a new directory.
 */

import { newNonce, nonceText, parseNonce } from "../nonce.ts";
import { Latch, LATCH_BYTES } from "../dataplane/latch.ts";
import type { VolatileContent } from "../storage/disk.ts";
import type { JournalStore, OwnedMemory } from "../hypervisor.ts";

/** The node of the backend's directory that holds the attachment's nonce. */
export const ATTACHMENT_NODE = "attachment-nonce";

/** One device's latch. Disposing it leaves the memory to the next process. */
export class DeviceLatch implements Disposable {
  readonly #store: JournalStore;
  readonly #name: string;
  #memory: OwnedMemory | undefined;
  #latch: Latch | undefined;
  #held: VolatileContent["loses"] | undefined;

  /** `name` is the memory's, in the store. */
  constructor(store: JournalStore, name: string) {
    this.#store = store;
    this.#name = name;
  }

  /** A flush failed since the disk was attached. */
  get tripped(): boolean {
    return this.#latch?.tripped ?? false;
  }

  /** The address of the memory; only after {@linkcode open}. */
  get address(): number {
    return this.#memory!.address;
  }

  /**
   * Opens the latch of the attachment with this nonce, given as its node's text. Returns what must be written into the
   * node before anything is served, if it is missing or not valid. If the memory that belongs to the nonce was lost or
   * damaged, nobody knows whether a flush failed: the latch is tripped. Throws what the store throws.
   */
  open(node: string | undefined): string | undefined {
    this.#memory ??= this.#store.open(this.#name, LATCH_BYTES);
    this.#latch ??= new Latch(this.#memory.view);
    const known = parseNonce(node);
    if (known !== undefined && this.#latch.belongsTo(known)) return undefined;
    const nonce = known ?? newNonce();
    this.#latch.begin(nonce, known !== undefined);
    return known === undefined ? nonceText(nonce) : undefined;
  }

  /**
   * From now on answered writes end with this process, until {@linkcode letGo}. True: an earlier process ended with some.
   * Only after {@linkcode open}.
   */
  hold(loses: VolatileContent["loses"]): boolean {
    const isFirst = this.#held === undefined;
    this.#held = loses;
    return this.#latch!.hold() && isFirst;
  }

  /** Everything was flushed, and the disk is closed. If it lost all with that, nobody may take it for what it was. */
  letGo(): void {
    if (this.#held === "unflushed") this.#latch?.letGo();
    this.#held = undefined;
  }

  /** Answered writes may be lost. Before {@linkcode open} it has no effect. */
  trip(): void {
    this.#latch?.trip();
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
