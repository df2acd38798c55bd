/**
 * Both ends of one ring on one thread over mmapped memory: a frontend's ring and the product's queue, with a disk that does
 * nothing and grant copies that move nothing.
 */

import { PAGE_BYTES } from "../lib/units.ts";
import { NativeGrantCopyBatch } from "../ffi/xen/grant_copy.ts";
import { viewOf } from "../ffi/linux/memory.ts";
import { openNativePlatform } from "../ffi/platform.ts";
import { ABIS, OP_READ, STATUS_OKAY } from "../lib/blkif/abi.ts";
import { FrontRing, RequestFields, ResponseFields } from "../lib/blkif/front_ring.ts";
import { openConnection } from "../lib/dataplane/connection.ts";
import type { Queue } from "../lib/dataplane/queue.ts";
import { createStats } from "../lib/dataplane/stats.ts";
import type {
  DomId,
  EventChannels,
  EvtchnPort,
  GrantCopyBatch,
  GrantRef,
  GrantTable,
  OwnedMemory,
} from "../lib/hypervisor.ts";
import { nullAttachment, openChannel } from "../lib/storage/engine/null.ts";
import type { ThrottleMemory } from "../lib/storage/filter/budget.ts";
import { DiskLimits } from "../lib/storage/filter/limits.ts";

const GUEST = 5 as DomId;
const DISK_SECTORS = 2 ** 21;
/** Distance between two requests in sectors: the size of the largest request. */
const STRIDE_SECTORS = 88;
const COPY_STATUS_HALFWORD = 10;
const COPY_HALFWORDS = 12;

const platform = openNativePlatform();

/** A guest's memory: its ring is mapped; its data pages are never read. */
class NullGuest implements GrantTable {
  constructor(readonly ring: OwnedMemory) {}

  setMaxGrants(): void {}

  mapPages(): OwnedMemory {
    return { address: this.ring.address, view: this.ring.view, [Symbol.dispose]: () => {} };
  }

  map(): number {
    return 0;
  }

  unmap(): number {
    return 0;
  }

  /** Builds the batch as for the hypervisor. Every copy succeeds and moves nothing. */
  createCopyBatch(capacity: number): GrantCopyBatch {
    return new NativeGrantCopyBatch(GUEST, capacity, (address) => {
      const { buffer } = viewOf(address, capacity * COPY_HALFWORDS * 2);
      const halfwords = new Int16Array(buffer);
      return (count) => {
        for (let i = 0; i < count; i++) halfwords[i * COPY_HALFWORDS + COPY_STATUS_HALFWORD] = STATUS_OKAY;
        return 0;
      };
    });
  }

  [Symbol.dispose](): void {}
}

/** Event channels within one thread: notifications wake no thread. */
class NullEvents implements EventChannels {
  readonly fd = 0;
  notifications = 0;

  fired(): void {}

  bindInterdomain(): EvtchnPort {
    return 1 as EvtchnPort;
  }

  bindUnbound(): EvtchnPort {
    return 1 as EvtchnPort;
  }

  notify(): void {
    this.notifications++;
  }

  unbind(): void {}

  take(): number {
    return 0;
  }

  [Symbol.dispose](): void {}
}

/** What the queues of one device share; see QueueSpec. */
export interface SharedByQueues {
  readonly busy?: SharedArrayBuffer;
  readonly busyQueues?: number;
  readonly throttle?: ThrottleMemory;
}

/** Limits of requests and of bytes that no ring here reaches. */
export function unreachedLimits(): SharedByQueues {
  return { throttle: new DiskLimits({ iops: 1e8, bytesPerSecond: 2 ** 42 }).memory };
}

/** Both ends of one ring. */
export class RingLoop {
  readonly #front: FrontRing;
  readonly #queue: Queue;
  readonly #fields = new RequestFields();
  readonly #response = new ResponseFields();
  #id = 0;
  #sector = 0;

  /** `shared`: the ring is one of several of its device, or its device has limits. */
  constructor(segments: number, shared?: SharedByQueues) {
    const abi = ABIS["x86_64-abi"];
    const ring = platform.memory.allocate(PAGE_BYTES);
    this.#front = FrontRing.initialise(ring.view, abi);
    const request = {
      label: "bench",
      guest: GUEST,
      ringRefs: [1 as GrantRef],
      eventChannel: 1 as EvtchnPort,
      abi: abi.name,
      attachment: nullAttachment(),
      properties: { sectors: DISK_SECTORS, logicalSectorBytes: 512, physicalSectorBytes: 512, readOnly: false },
      grants: "copy",
      stats: createStats(),
      ...shared,
    } as const;
    const complain = (line: string): never => {
      throw new Error(line);
    };
    const handles = { grants: new NullGuest(ring), events: new NullEvents() };
    this.#queue = openConnection(
      request,
      platform,
      handles,
      (_, options) => openChannel(nullAttachment(), options),
      complain,
    ).queue;
    this.#fields.operation = OP_READ;
    this.#fields.segmentCount = segments;
    for (let i = 0; i < segments; i++) {
      this.#fields.grefs[i] = 8 + i;
      this.#fields.lastSectors[i] = 7;
    }
  }

  run(requests: number): void {
    for (let done = 0; done < requests;) {
      this.#put(Math.min(this.#front.free(), requests - done));
      this.#front.push();
      while (this.#queue.step() || this.#queue.rest());
      done += this.#takeResponses();
    }
  }

  #put(count: number): void {
    const fields = this.#fields;
    for (let n = 0; n < count; n++) {
      fields.idLow = this.#id;
      fields.sectorLow = this.#sector;
      this.#id = (this.#id + 1) >>> 0;
      this.#sector = (this.#sector + STRIDE_SECTORS) & 0xF_FFFF;
      this.#front.putRequest(fields);
    }
  }

  #takeResponses(): number {
    const count = this.#front.unconsumedResponses();
    const response = this.#response;
    for (let n = 0; n < count; n++) {
      this.#front.takeResponse(response);
      if (response.status !== STATUS_OKAY || response.operation !== OP_READ) throw new Error("a read failed");
    }
    this.#front.finalCheck();
    return count;
  }
}
