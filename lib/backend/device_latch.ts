/**
 * The latch of one device after a failed flush, in memory that outlives the process. A nonce in the backend's directory
 * ties it to one attachment of the disk: the next process finds it as the last one left it, and the operator clears it
 * by attaching the disk again, which makes a new directory.
 */

import { newNonce, nonceText, parseNonce } from "../nonce.ts";
import { Latch, LATCH_BYTES } from "../dataplane/latch.ts";
import type { JournalStore, OwnedMemory } from "../hypervisor.ts";

/** The node of the backend's directory that holds the attachment's nonce. */
export const ATTACHMENT_NODE = "attachment-nonce";

/** One device's latch. Disposing it leaves the memory to the next process. */
export class DeviceLatch implements Disposable {
  readonly #store: JournalStore;
  readonly #name: string;
  #memory: OwnedMemory | undefined;
  #latch: Latch | undefined;
  /** This process has noted the risk. */
  #isOurRisk = false;
  #failure: string | undefined;

  /** `name` is the memory's, in the store. */
  constructor(store: JournalStore, name: string) {
    this.#store = store;
    this.#name = name;
  }

  /** A flush failed since the disk was attached. */
  get tripped(): boolean {
    return this.#latch?.tripped ?? false;
  }

  /** Why it was tripped when it was opened, if an earlier process ended at risk. */
  get failure(): string | undefined {
    return this.#failure;
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
    if (known !== undefined && this.#latch.belongsTo(known)) {
      if (this.#latch.isAtRisk && !this.#isOurRisk) {
        this.#failure = "an earlier process ended, and with it what its disk had not flushed";
        this.#latch.trip();
      }
      return undefined;
    }
    this.#failure = undefined;
    const nonce = known ?? newNonce();
    this.#latch.begin(nonce, known !== undefined);
    return known === undefined ? nonceText(nonce) : undefined;
  }

  /** From now on, writes that are answered and not flushed end with this process. Only after {@linkcode open}. */
  beginRisk(): void {
    this.#isOurRisk = true;
    this.#latch!.isAtRisk = true;
  }

  /** The disk; once it is closed in order, all that was answered is durable. */
  endsRisk(disk: AsyncDisposable): AsyncDisposable {
    return {
      [Symbol.asyncDispose]: async (): Promise<void> => {
        await disk[Symbol.asyncDispose]();
        if (this.#isOurRisk && this.#latch !== undefined) this.#latch.isAtRisk = false;
        this.#isOurRisk = false;
      },
    };
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
