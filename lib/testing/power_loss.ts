/**
 * A filter for tests that makes the disk behind it one with a volatile write cache: what no flush has made durable is
 * lost, whole or in part, when a test cuts the power. Disks are allowed exactly that.
 */

import { EBADF, EOPNOTSUPP } from "../errno.ts";
import { XenblkError } from "../errors.ts";
import type { DiskModel } from "../guest/disk_model.ts";
import { Random } from "../guest/random.ts";
import { eventLoopTurn } from "../modules.ts";
import type { ChannelContext, ChannelOptions, DiskAttachment, DiskProperties, IoChannel } from "../storage/disk.ts";
import type { FilterAttachment, FilterDefinition, FilterValues } from "../storage/filter/filter.ts";
import type { OutsideFilter } from "../storage/filter/spec.ts";
import { PowerLossChannel } from "./power_loss_channel.ts";
import { type PowerCut, VolatileCache } from "./volatile_cache.ts";

/** How a disk loses writes. */
export interface PowerLossOptions {
  /** Decides which writes are lost; the same seed decides the same. Default 1. */
  readonly seed?: number;
  /** Size of the cache in bytes, at least 1 MiB; a full cache is flushed. Default 16 MiB. */
  readonly cacheBytes?: number;
  /** How long a cut waits for a flush that is under way, in milliseconds; then the flush fails. Default 1000. */
  readonly flushLimitMs?: number;
}

/** The power of one disk. It goes on to know what is in the cache while the disk is detached. */
export interface PowerLoss extends Disposable {
  /** For the list `filters` that a disk is attached with. One disk at a time. */
  readonly filter: OutsideFilter;
  /**
   * Takes the power away and returns it. A flush that is under way fails then, unless it ends within `flushLimitMs`.
   * Resolves with what became of the writes that were not flushed; of their sectors `model` then expects nothing.
   */
  cut(model?: DiskModel): Promise<PowerCut>;
}

/** What all channels of a disk share. */
interface PowerLossState {
  readonly cache: SharedArrayBuffer;
  readonly readOnly: boolean;
}

const LEAST_CACHE_BYTES = 1 << 20;

/** The caches of this process, by the number that filters name; the threads of channels get theirs by attachment. */
const caches = new Map<number, VolatileCache>();
let lastId = 0;

/**
 * A disk that can lose its power: the filter to attach it with, and the switch. Throws {@linkcode XenblkError} (usage) for
 * a cache that is too small.
 */
export function powerLossFilter(options: PowerLossOptions = {}): PowerLoss {
  const { seed = 1, cacheBytes = 16 << 20, flushLimitMs = 1000 } = options;
  if (!(cacheBytes >= LEAST_CACHE_BYTES)) {
    throw new XenblkError(`Cannot make a write cache of ${cacheBytes} bytes: a request may be larger`, {
      kind: "usage",
      remedy: "give it at least 1 MiB",
    });
  }
  const cache = VolatileCache.create(cacheBytes);
  const random = new Random(seed);
  const id = ++lastId;
  caches.set(id, cache);
  return {
    filter: { name: import.meta.url as OutsideFilter["name"], id },
    cut: async (model) => {
      const end = performance.now() + flushLimitMs;
      while (cache.isDestaging && performance.now() < end) await eventLoopTurn();
      const result = cache.cut(random);
      for (const { sector, count } of result.unflushed) model?.writing(sector, count);
      return result;
    },
    [Symbol.dispose]: () => void caches.delete(id),
  };
}

/** See FilterModule. */
export const filter: FilterDefinition = {
  summary: "The disk has a write cache, whose content is lost when a test cuts the power",
  options: {
    id: {
      help: "the number of the cache",
      placeholder: "ID",
      allowed: "what powerLossFilter has chosen",
      parse: (value) => caches.has(Number(value)) ? Number(value) : undefined,
    },
  },
  properties: ({ discard: _, ...disk }) => disk,
  createState,
};

function createState(disk: DiskProperties, { id }: FilterValues): PowerLossState {
  const { copyOnly, readOnly, logicalSectorBytes } = disk;
  if (copyOnly !== undefined) {
    throw new XenblkError(`Cannot put a write cache before the disk: ${copyOnly}`, {
      remedy: "put it before an image that no storage daemon serves",
    });
  }
  const cache = caches.get(Number(id));
  if (cache === undefined) {
    throw new XenblkError("Cannot put a write cache before the disk: it was disposed", {
      remedy: "dispose what powerLossFilter returns after the disk",
    });
  }
  cache.reopen(logicalSectorBytes);
  return { cache: cache.buffer, readOnly };
}

/** See DiskModule. */
export function openChannel(attachment: DiskAttachment, options: ChannelOptions, context: ChannelContext): IoChannel {
  const { inner, state } = attachment as FilterAttachment;
  const { cache, readOnly } = state as PowerLossState;
  const refusal = { write: readOnly ? -EBADF : 0, discard: readOnly ? -EBADF : -EOPNOTSUPP };
  return PowerLossChannel.open(new VolatileCache(cache), refusal, inner, options, context);
}
