/**
 * What of one device outlives its process: the journals of its rings, the lock that keeps two processes from serving
 * it at once, and the nonce that ties the journals to one connection: it is in the backend's directory and in the
 * journals, so that a journal of an earlier connection, or of another guest, is never taken for this one's. What is in
 * a journal is not known here.
 */

import { newNonce, type Nonce, parseNonce } from "../nonce.ts";
import { journalBytes } from "../dataplane/journal.ts";
import type { JournalSpec } from "../dataplane/types.ts";
import type { JournalStore, OwnedMemory } from "../hypervisor.ts";
import { MOST_QUEUES } from "../xenbus/features.ts";
import type { DeviceAddress } from "../xenbus/paths.ts";

/** The backend's node that holds the nonce of the connection that it serves. */
export const NONCE_NODE = "connection-nonce";

/** A connection, and whether it is one that another process served before. */
export interface ConnectionIdentity {
  readonly nonce: Nonce;
  readonly resume: boolean;
}

/** A connection that begins. */
function newConnection(): ConnectionIdentity {
  return { nonce: newNonce(), resume: false };
}

/** The connection that goes on, as its node says; one that begins if it says nothing of use. */
export function resumedConnection(node: string | undefined): ConnectionIdentity {
  const nonce = parseNonce(node);
  return nonce === undefined ? newConnection() : { nonce, resume: true };
}

/** What a device is called in lines, statistics and names of files: `vbd3/5/51712`, that is kind, domid, vdev. */
export function deviceLabel({ kind, frontendDomain, vdev }: DeviceAddress): string {
  return `${kind}/${frontendDomain}/${vdev}`;
}

/** How a device's lock, latch and journals are called; `label` is its own, such as `vbd3/5/51712`. */
export function keptNames(label: string): {
  readonly lock: string;
  readonly latch: string;
  readonly journal: (queue: number) => string;
} {
  const name = label.replaceAll("/", "-");
  return { lock: `${name}.lock`, latch: `${name}-latch`, journal: (queue) => `${name}-${queue}` };
}

/** The journals of one device, unless none are kept, and its lock. */
export class DeviceJournals {
  readonly #store: JournalStore;
  readonly #kept: boolean;
  readonly #names: ReturnType<typeof keptNames>;
  readonly #mapped: OwnedMemory[] = [];
  #lock: Disposable | undefined;

  /** `label` is the device's; without `kept` there are no journals, and the lock all the same. */
  constructor(store: JournalStore, label: string, kept: boolean) {
    this.#store = store;
    this.#kept = kept;
    this.#names = keptNames(label);
  }

  /**
   * Makes the device this process's own, until {@linkcode disown} or the end of the process. False: it is another
   * one's. Throws if it cannot be found out.
   */
  own(): boolean {
    this.#lock ??= this.#store.lock(this.#names.lock);
    return this.#lock !== undefined;
  }

  /** Another process may serve the device from now on. */
  disown(): void {
    this.#lock?.[Symbol.dispose]();
    this.#lock = undefined;
  }

  /** The journals of rings with so many slots, or undefined if none are kept. Throws if they cannot be had. */
  open(ringSlots: readonly number[], connection: ConnectionIdentity): JournalSpec[] | undefined {
    // What an earlier process kept of this connection is not true any more once somebody serves it without journals.
    if (!this.#kept) return void this.forget();
    return ringSlots.map((slots, queue) => {
      const memory = this.#store.open(this.#names.journal(queue), journalBytes(slots));
      this.#mapped.push(memory);
      return { address: memory.address, ...connection };
    });
  }

  /** The rings are closed; what the journals hold stays for the next process. */
  unmap(): void {
    for (const memory of this.#mapped.splice(0)) memory[Symbol.dispose]();
  }

  /** The connection is over for good, in whichever process, and with however many rings, it was served. */
  forget(): void {
    this.unmap();
    for (let queue = 0; queue < MOST_QUEUES; queue++) this.#store.remove(this.#names.journal(queue));
  }
}
