/**
 * Makes the grant strategy of a mode. `copy` moves the bytes through private buffers with one grant copy call per pass,
 * for all requests together; `map` maps a request's pages (in one call, or one by one) and lets the engine work on them
 * in place; `persistent` keeps them mapped. What a strategy does is grants.ts.
 */

import type { RequestSlots } from "../blkif/request.ts";
import type { GrantTable, MemorySpace } from "../hypervisor.ts";
import { CopyStrategy } from "./copy_strategy.ts";
import type { GrantStrategy } from "./grants.ts";
import { MapEachStrategy, MapStrategy } from "./map_strategy.ts";
import { PersistentStrategy } from "./persistent.ts";
import type { GrantMode } from "./types.ts";

/** What a strategy is made of. */
export interface GrantParts {
  readonly slots: RequestSlots;
  readonly grants: GrantTable;
  readonly memory: MemorySpace;
  /** Most mappings that `persistent` keeps. */
  readonly maxPersistentGrants: number;
  /** The queue's counters' memory; see stats.ts. */
  readonly stats: SharedArrayBuffer;
}

/** Makes the strategy of a mode. */
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
