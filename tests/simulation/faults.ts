/**
 * The faults of a run: which kinds it has and at what rate, chosen once, and how often each kind has struck. What a
 * fault does is in the code that asks whether it strikes.
 */

import { EINVAL } from "../../lib/errno.ts";
import type { FaultPlan } from "../../lib/sim/faults.ts";
import type { Decisions } from "./decisions.ts";

/** Faults that strike at random. */
const SPONTANEOUS = [
  "grant map",
  "grant unmap",
  "grant copy call",
  "grant copy segment",
  "event overflow",
  "read error",
  "write error",
  "flush error",
  "short read",
  "short write",
  "interrupted call",
  "image not opened",
  "transaction conflict",
  "store answer lost",
  "store call slow",
  "storage call slow",
  "killed at a store",
] as const;

/** What guests, operators and accidents do. */
const ACTIONS = [
  "hostile request",
  "bad handshake",
  "ring overrun",
  "rude close",
  "guest death",
  "state nonsense",
  "device detached",
  "queue moved",
  "queue not moved",
  "process stopped",
  "process detached",
  "process killed",
  "store disconnected",
  "store restarted",
  "power failure",
  "disk hung",
  "device given up",
] as const;

/**
 * Consequences of a failed flush: the process is killed before it sees the result, or the next one inherits the latch.
 */
const CONSEQUENCES = ["flush error untold", "latch inherited"] as const;

/** All kinds of faults. */
export const FAULT_KINDS = [...SPONTANEOUS, ...ACTIONS, ...CONSEQUENCES] as const;
/** One of {@linkcode FAULT_KINDS}. */
export type FaultKind = typeof FAULT_KINDS[number];

/** How often each kind struck. */
export type FaultCounts = { readonly [Kind in FaultKind]: number };

/** Faults that may make a request fail. */
const DISTURBING: ReadonlySet<FaultKind> = new Set([
  "grant map",
  "grant unmap",
  "grant copy call",
  "grant copy segment",
  "read error",
  "write error",
  "flush error",
]);

/** Rate of each kind, per 1000 occasions, by how hard the run is. */
const RATES = [0, 8, 60] as const;
/** Divides the rate of a kind that has very many occasions. */
const RARITY: Partial<Record<FaultKind, number>> = { "killed at a store": 6, "store call slow": 8 };
/** Of 1000 runs with faults, how many have a given kind. */
const KIND_SHARE = 450;
/** A positive status (XSA-316): also a failure. */
const POSITIVE_STATUS = 1;
const GNTST_GENERAL_ERROR = -1;

/** The faults of one run. */
export class Faults {
  readonly #decisions: Decisions;
  readonly #rates = new Map<FaultKind, number>();
  readonly #counts = new Map<FaultKind, number>();
  /** How many faults so far may have made a request fail. */
  disturbances = 0;
  /** False: no fault strikes at random any more. */
  enabled = true;

  constructor(decisions: Decisions) {
    this.#decisions = decisions;
  }

  /** Chooses the kinds and their rates. */
  choose(): void {
    const rate = RATES[this.#decisions.below(RATES.length)]!;
    if (rate === 0) return;
    for (const kind of SPONTANEOUS) {
      if (this.#decisions.chance(KIND_SHARE)) this.#rates.set(kind, Math.ceil(rate / (RARITY[kind] ?? 1)));
    }
  }

  /** Whether the fault strikes now; if so, counts it. */
  strikes(kind: typeof SPONTANEOUS[number]): boolean {
    const rate = this.enabled ? this.#rates.get(kind) ?? 0 : 0;
    if (rate === 0 || !this.#decisions.chance(rate)) return false;
    this.count(kind);
    return true;
  }

  /** Counts one. */
  count(kind: FaultKind): void {
    this.#counts.set(kind, this.countOf(kind) + 1);
    if (DISTURBING.has(kind)) this.disturbances++;
  }

  /** How often it struck. */
  countOf(kind: FaultKind): number {
    return this.#counts.get(kind) ?? 0;
  }

  /** How often each kind struck. */
  get counts(): FaultCounts {
    return Object.fromEntries(FAULT_KINDS.map((kind) => [kind, this.countOf(kind)])) as FaultCounts;
  }

  /** The plan for the faults of the hypervisor. */
  get plan(): FaultPlan {
    return {
      map: () => this.strikes("grant map") ? -EINVAL : 0,
      unmap: () => this.strikes("grant unmap") ? -EINVAL : 0,
      copyCall: () => this.strikes("grant copy call") ? -EINVAL : 0,
      copySegment: () => {
        if (!this.strikes("grant copy segment")) return 0;
        return this.#decisions.pick([GNTST_GENERAL_ERROR, POSITIVE_STATUS]);
      },
      overflow: () => this.strikes("event overflow"),
    };
  }
}
