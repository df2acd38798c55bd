/**
 * Makes the grant strategy of a mode. `copy` moves the bytes through private buffers, with one grant copy call per pass
 * for all requests together; `map` maps a request's pages (in one call, or one by one) and lets the engine work on them
 * in place; `persistent` keeps them mapped.
 */

import type { GrantTable, MemorySpace } from "../../hypervisor.ts";
import type { SlotTable } from "../slot_table.ts";
import type { GrantMode } from "../types.ts";
import { CopyStrategy } from "./copy.ts";
import { MapEachStrategy, MapStrategy } from "./map.ts";
import { PersistentStrategy } from "./persistent.ts";
import type { GrantStrategy } from "./strategy.ts";

/** What a strategy is made of. */
export interface GrantParts {
  readonly slots: SlotTable;
  readonly grants: GrantTable;
  readonly memory: MemorySpace;
  /** The most mappings that `persistent` keeps. */
  readonly maxPersistentGrants: number;
  /** The memory of the queue's counters; see stats.ts. */
  readonly stats: SharedArrayBuffer;
}

/** Makes the strategy of a mode. Throws RangeError when there is no memory left. */
export function createGrantStrategy(mode: GrantMode, parts: GrantParts): GrantStrategy {
  const { slots, grants, memory, maxPersistentGrants, stats } = parts;
  switch (mode) {
    case "copy":
      return new CopyStrategy(slots, grants, memory);
    case "persistent":
      return new PersistentStrategy({
        slots,
        grants,
        fallback: new CopyStrategy(slots, grants, memory),
        maxGrants: maxPersistentGrants,
        stats: new Float64Array(stats),
      });
    case "map":
      return new MapStrategy(slots, grants);
    case "map-each":
      return new MapEachStrategy(slots, grants);
  }
}
