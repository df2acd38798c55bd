/**
 * What the data plane is asked for to serve one ring of a device, and what was opened of it.
 */

import type { QueueHandle, QueueSpec } from "../dataplane/types.ts";
import type { DeviceCounters } from "./device_counters.ts";
import type { DeviceFilters } from "./device_filters.ts";
import type { LiveSettings } from "./live_settings.ts";
import type { Connection, RingPlace } from "./resource_types.ts";
import type { Disk } from "../storage/disk.ts";
import type { DeviceSettings } from "./settings.ts";
import type { Operation } from "./waits.ts";

/** What depends on how the ring is opened: for the first time, or again. */
export type RingExtras = Pick<QueueSpec, "journal" | "held">;

/** Rings that are being opened. */
export interface RingsOpening {
  readonly connection: Connection;
  readonly operation: Operation<PromiseSettledResult<QueueHandle>[]>;
  /** Rings that the data plane has not begun to open are then refused. */
  readonly abandon: AbortController;
}

/** What all rings of a device share. */
interface Shared {
  readonly counters: Pick<DeviceCounters, "of" | "busy">;
  readonly live: Pick<LiveSettings, "weight">;
  readonly filters: Pick<DeviceFilters, "memory">;
  readonly latch: { readonly address: number };
}

/** The ring of that place, without what depends on how it is opened. */
export function ringSpec(
  { queue, disk, connection }: RingPlace,
  { maxPersistentGrants, maxRequests }: DeviceSettings,
  { counters, live, filters, latch }: Shared,
  { label, guest, moved }: Pick<QueueSpec, "label" | "guest" | "moved">,
): QueueSpec {
  const { frontend: { abi, queues }, offer: { maxIndirectSegments }, grants, directIoSafe, discard } = connection;
  const { ringRefs, eventChannel } = queues[queue]!;
  return {
    label: `${label} queue ${queue}`,
    guest,
    ringRefs,
    eventChannel,
    abi,
    disk,
    grants,
    directIoSafe,
    discard,
    maxIndirectSegments,
    ...(maxPersistentGrants !== undefined && { maxPersistentGrants }),
    ...(maxRequests !== undefined && { maxRequests }),
    stats: counters.of(queue),
    busy: counters.busy,
    busyQueues: queues.length,
    weight: live.weight.memory,
    throttle: filters.memory,
    latch: latch.address,
    ...(moved && { moved }),
  };
}

/** The rings that were opened. */
export function openedOf(results: readonly PromiseSettledResult<QueueHandle>[]): QueueHandle[] {
  return results.flatMap((result) => result.status === "fulfilled" ? [result.value] : []);
}

/** For messages: the image's path, or what the disk is. */
export function nameOf({ image, description }: Disk): string {
  return image === undefined ? description : `image ${image.path}`;
}
