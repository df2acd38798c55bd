/**
 * The journals of one device's rings, the lock that keeps two processes from serving them at once, and the nonce that
 * ties them to one connection: it is in the backend's directory and in the journals, so that a journal of an earlier
 * connection, or of another guest, is never taken for this one's. What is in a journal is not known here.
 */

import { journalBytes } from "../dataplane/journal.ts";
import type { JournalSpec } from "../dataplane/types.ts";
import type { JournalStore, OwnedMemory } from "../hypervisor.ts";
import { MOST_QUEUES } from "../xenbus/features.ts";

/** The backend's node that holds the nonce of the connection that it serves. */
export const NONCE_NODE = "connection-nonce";

const NONCE_WORDS = 4;
const NONCE_TEXT = /^[0-9a-f]{32}$/;

/** A connection, and whether it is one that another process served before. */
export interface ConnectionIdentity {
  readonly nonce: Uint32Array;
  readonly resume: boolean;
}

/** A connection that begins. */
export function newConnection(): ConnectionIdentity {
  return { nonce: crypto.getRandomValues(new Uint32Array(NONCE_WORDS)), resume: false };
}

/** The connection that goes on, as its node says; one that begins if it says nothing of use. */
export function resumedConnection(node: string | undefined): ConnectionIdentity {
  if (node === undefined || !NONCE_TEXT.test(node)) return newConnection();
  const nonce = Uint32Array.from({ length: NONCE_WORDS }, (_, i) => parseInt(node.slice(8 * i, 8 * i + 8), 16));
  return { nonce, resume: true };
}

/** The node's value for a nonce. */
export function nonceText(nonce: Uint32Array): string {
  return Array.from(nonce, (word) => word.toString(16).padStart(8, "0")).join("");
}

/** The journals of one device; without a store there are none. */
export class DeviceJournals {
  readonly #store: JournalStore | undefined;
  readonly #name: string;
  readonly #mapped: OwnedMemory[] = [];
  #lock: Disposable | undefined;

  /** `label` is the device's, such as `vbd3/5/51712`. */
  constructor(store: JournalStore | undefined, label: string) {
    this.#store = store;
    this.#name = label.replaceAll("/", "-");
  }

  /**
   * Makes the device this process's own, until {@linkcode disown} or the end of the process. False: it is another
   * one's. Without a store nobody is kept out. Throws if it cannot be found out.
   */
  own(): boolean {
    if (this.#store === undefined) return true;
    this.#lock ??= this.#store.lock(`${this.#name}.lock`);
    return this.#lock !== undefined;
  }

  /** Another process may serve the device from now on. */
  disown(): void {
    this.#lock?.[Symbol.dispose]();
    this.#lock = undefined;
  }

  /** The journal of a ring with so many slots. Throws if it cannot be had. */
  open(queue: number, ringSlots: number, connection: ConnectionIdentity): JournalSpec | undefined {
    if (this.#store === undefined) return undefined;
    const memory = this.#store.open(this.#nameOf(queue), journalBytes(ringSlots));
    this.#mapped.push(memory);
    return { address: memory.address, ...connection };
  }

  /** The rings are closed; what the journals hold stays for the next process. */
  unmap(): void {
    for (const memory of this.#mapped.splice(0)) memory[Symbol.dispose]();
  }

  /** The connection is over for good, in whichever process, and with however many rings, it was served. */
  forget(): void {
    this.unmap();
    for (let queue = 0; queue < MOST_QUEUES; queue++) this.#store?.remove(this.#nameOf(queue));
  }

  #nameOf(queue: number): string {
    return `${this.#name}-${queue}`;
  }
}
