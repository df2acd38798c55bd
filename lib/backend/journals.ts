/**
 * The names of what outlives a process in the journal store, and the journals of one device's rings. A nonce in the
 * backend's directory and in each journal ties them to one connection, so that a journal of an earlier connection, or
 * of another guest, is never replayed into this one. The store's calls are synchronous: its files are in a tmpfs below
 * /run, which waits for no disk.
 */

import { ABIS, ringSlots } from "../blkif/abi.ts";
import { newNonce, type Nonce, nonceText, parseNonce } from "../nonce.ts";
import { journalBytes } from "../dataplane/journal.ts";
import type { JournalSpec } from "../dataplane/types.ts";
import type { JournalStore, OwnedMemory } from "../hypervisor.ts";
import { writeLogName } from "../storage/write_log/name.ts";
import { MOST_QUEUES, type NodeValue } from "../xenbus/features.ts";
import type { FrontendParameters } from "../xenbus/negotiate.ts";
import type { DeviceAddress } from "../xenbus/paths.ts";

/** The node of the backend's directory that holds the connection's nonce. */
export const NONCE_NODE = "connection-nonce";

/** Tells a connection from earlier ones. */
export interface ConnectionIdentity {
  readonly nonce: Nonce;
  /** Another process served this connection before: its journals hold what it left unanswered. */
  readonly resume: boolean;
}

/** A new connection. */
function newConnection(): ConnectionIdentity {
  return { nonce: newNonce(), resume: false };
}

/** The connection that the node names, which goes on; a new one if the node is missing or no nonce. */
export function resumedConnection(node: string | undefined): ConnectionIdentity {
  const nonce = parseNonce(node);
  return nonce === undefined ? newConnection() : { nonce, resume: true };
}

/** A device's name in log lines, statistics and file names: kind, domid and virtual device, `vbd3/5/51712`. */
export function deviceLabel({ kind, frontendDomain, vdev }: DeviceAddress): string {
  return `${kind}/${frontendDomain}/${vdev}`;
}

/** What the names of a device's files begin with. */
function keptPrefix(label: string): string {
  return label.replaceAll("/", "-");
}

/** The names of a device's lock, latch and journals, from its label. */
export function keptNames(label: string): {
  readonly lock: string;
  readonly latch: string;
  readonly journal: (queue: number) => string;
  readonly writes: string;
} {
  const name = keptPrefix(label);
  return {
    lock: `${name}.lock`,
    latch: `${name}-latch`,
    journal: (queue) => `${name}-${queue}`,
    writes: writeLogName(label),
  };
}

/**
 * Whether there are journals of rings, of a kind or of one device: a process before this one has served them, and their
 * guests may wait. False if the store cannot tell.
 */
export function hasJournals(store: JournalStore, served: string | DeviceAddress): boolean {
  const [prefix, rest] = typeof served === "string"
    ? [`${served}-`, /^\d+-\d+-\d+$/] // a kind may contain digits and dashes
    : [`${keptPrefix(deviceLabel(served))}-`, /^\d+$/];
  try {
    return store.names().some((name) => name.startsWith(prefix) && rest.test(name.slice(prefix.length)));
  } catch {
    return false;
  }
}

/** The journals of one device's rings, if journals are kept. */
export class DeviceJournals {
  readonly #store: JournalStore;
  readonly #kept: boolean;
  readonly #names: ReturnType<typeof keptNames>;
  readonly #mapped: OwnedMemory[] = [];

  /** `label` is the device's. */
  constructor(store: JournalStore, label: string, kept: boolean) {
    this.#store = store;
    this.#kept = kept;
    this.#names = keptNames(label);
  }

  /** Opens a journal for each ring, given its slots. Undefined if none are kept. Throws what the store throws. */
  open(ringSlots: readonly number[], connection: ConnectionIdentity): JournalSpec[] | undefined {
    // Journals that an earlier process kept become stale once this connection is served without them.
    if (!this.#kept) return void this.forget();
    return ringSlots.map((slots, queue) => {
      const memory = this.#store.open(this.#names.journal(queue), journalBytes(slots));
      this.#mapped.push(memory);
      return { address: memory.address, ...connection };
    });
  }

  /** The nodes that let the next process recognize the connection. */
  identityNodes({ nonce }: ConnectionIdentity): NodeValue[] {
    return this.#kept ? [[NONCE_NODE, nonceText(nonce)]] : [];
  }

  /** Closes them; their contents stay for the next process. */
  unmap(): void {
    for (const memory of this.#mapped.splice(0)) memory[Symbol.dispose]();
  }

  /** Removes them: the connection is over, whichever process served it and with however many rings. */
  forget(): void {
    this.unmap();
    for (let queue = 0; queue < MOST_QUEUES; queue++) this.#store.remove(this.#names.journal(queue));
  }
}

/** How many slots each ring of a connection has. */
export function slotsOf({ abi, queues }: FrontendParameters): number[] {
  return queues.map(({ ringRefs }) => ringSlots(ABIS[abi], ringRefs.length));
}
