/**
 * One queue together with what ties it to its guest: the mapped ring, the bound event channel and the guest's grant and
 * event handles. Opening acquires all of it or nothing; disposing releases it in the opposite order.
 */

import { ABIS, MAX_RING_PAGES, MAX_SEGMENTS_PER_REQUEST } from "../blkif/abi.ts";
import { BackRing } from "../blkif/back_ring.ts";
import { errorText, XenblkError } from "../errors.ts";
import type {
  DomId,
  EventChannels,
  EvtchnPort,
  GrantTable,
  MemorySpace,
  OwnedMemory,
  Platform,
} from "../hypervisor.ts";
import { derivedNonce } from "../nonce.ts";
import type { BufferOpener, ChannelOpener, DiskAttachment, DiskProperties } from "../storage/disk.ts";
import { createGrantStrategy } from "./grants/create.ts";
import { memoryRule } from "./grants/memory_rule.ts";
import { MOST_PAGES_PER_RING } from "./grants/page_pool.ts";
import { IndirectPages } from "./indirect_pages.ts";
import { Latch, LATCH_BYTES } from "./latch.ts";
import { Journal, journalBytes } from "./journal.ts";
import { Limiter } from "./limiter.ts";
import { Queue } from "./queue.ts";
import { RequestTimes } from "./request_times.ts";
import { segmentTableBytes, SlotTable } from "./slot_table.ts";
import { DEFAULT_PERSISTENT_GRANTS, type QueueSpec } from "./types.ts";

/** What a reactor needs to open a queue: a QueueSpec in a form that can be posted to its Worker. */
export interface OpenRequest extends Omit<QueueSpec, "disk" | "moved"> {
  readonly attachment: DiskAttachment;
  readonly properties: DiskProperties;
  /** The image's path, for messages; absent where there is none. */
  readonly image?: string;
}

/** A reactor's handles for one guest domain, shared by all its queues of that guest. */
export interface GuestHandles {
  readonly grants: GrantTable;
  readonly events: EventChannels;
}

/** A queue that is tied to its guest. */
export interface Connection extends Disposable {
  readonly queue: Queue;
  /** The queue's way to the disk. */
  readonly limiter: Limiter;
  /** The device's. */
  readonly latch: Latch;
  readonly guest: DomId;
  /** Our end of the event channel. */
  readonly port: EvtchnPort;
}

/** Maps, binds and opens all that a queue needs. Throws, with nothing left open, if any of it fails. */
export function openConnection(
  request: OpenRequest,
  platform: Platform,
  handles: GuestHandles,
  openChannel: ChannelOpener,
  complain: (line: string) => void,
  openMemory?: BufferOpener,
): Connection {
  using undo = new DisposableStack();
  const abi = ABIS[request.abi];
  const ringMemory = undo.use(handles.grants.mapPages(request.ringRefs, true));
  const ring = new BackRing(ringMemory.view, abi);
  const { journal, replay } = undo.use(openJournal(request, platform, ring, complain));
  const inFlight = mostInFlight(request, ring, replay);
  const maxIndirectSegments = request.maxIndirectSegments ?? 0;
  const maxSegments = Math.max(MAX_SEGMENTS_PER_REQUEST, maxIndirectSegments);
  const segments = undo.use(platform.memory.allocate(segmentTableBytes(inFlight, maxSegments)));
  const slots = new SlotTable(inFlight, maxSegments, maxIndirectSegments, replay, segments.view);
  const memory = openBuffers(request, platform, undo, openMemory);
  const grants = undo.use(
    createGrantStrategy(request.grants, {
      slots,
      grants: handles.grants,
      memory,
      maxPersistentGrants: request.maxPersistentGrants ?? DEFAULT_PERSISTENT_GRANTS,
      stats: request.stats,
    }),
  );
  const indirect = maxIndirectSegments > 0 && undo.use(new IndirectPages(slots, handles.grants, platform.memory));
  const rule = memoryRule(request.grants, request.directIoSafe ?? false);
  const buffers = grants.buffers && { buffers: grants.buffers };
  const options = { depth: inFlight, vectors: slots.vectors, memory, ...buffers, rule };
  const channel = openChannel(request.attachment, options);
  const limiter = undo.use(new Limiter(channel, options, request.throttle, platform, request.busyQueues));
  const deviceLatch = new Latch(undo.use(openLatch(request.latch, platform)).view);
  const port = handles.events.bindInterdomain(request.guest, request.eventChannel);
  undo.defer(() => handles.events.unbind(port));
  const queue = new Queue({
    ...(request.image === undefined ? {} : { image: request.image }),
    ring,
    abi,
    slots,
    grants,
    ...(indirect && { indirect }),
    channel: limiter.channel,
    gate: limiter.gate,
    limits: limitsOf(request),
    journal,
    stats: request.stats,
    times: new RequestTimes({ ...request, slots: inFlight, platform }),
    latch: deviceLatch,
    notify: () => notifyFrontend(handles.events, port, complain),
    complain,
  });
  // The last process may have died after pushing responses, before notifying.
  if (request.journal !== undefined) notifyFrontend(handles.events, port, complain);
  const owned = undo.move();
  return { queue, limiter, latch: deviceLatch, guest: request.guest, port, [Symbol.dispose]: () => owned.dispose() };
}

/** After a crash more may be in flight than the limit allows from now on. */
function mostInFlight({ maxRequests }: OpenRequest, { slots }: BackRing, replay: readonly number[]): number {
  return Math.max(Math.min(maxRequests ?? slots, slots), ...replay.map((slot) => slot + 1));
}

/**
 * Where the data of requests lies: in memory of the disk's module if that requires it. Throws {@linkcode XenblkError} if it
 * does and the grant mode uses other memory, too.
 */
function openBuffers(
  { attachment, grants, properties }: OpenRequest,
  platform: Platform,
  undo: DisposableStack,
  openMemory?: BufferOpener,
): MemorySpace {
  const space = openMemory?.(attachment);
  if (space === undefined) return platform.memory;
  undo.use(space);
  if (grants === "copy") return space;
  throw new XenblkError(
    `Cannot serve the disk with grants ${grants}: ${properties.copyOnly ?? "it has memory of its own"}`,
    {
      remedy: "use grants copy or auto",
    },
  );
}

/** The memory of the device's latch, or of one for this queue alone. */
function openLatch(address: number | undefined, { memory }: Platform): OwnedMemory {
  if (address === undefined) return memory.allocate(LATCH_BYTES);
  return { address, view: memory.view(address, LATCH_BYTES), [Symbol.dispose]: () => {} };
}

/** The journal that the request names, with the requests in it that are not answered; or a private one, lost in a crash. */
function openJournal(
  request: OpenRequest,
  platform: Platform,
  ring: BackRing,
  complain: (line: string) => void,
): Disposable & { readonly journal: Journal; readonly replay: readonly number[] } {
  const { journal: kept } = request;
  const lengthBytes = journalBytes(ring.slots);
  if (kept === undefined) {
    const memory = platform.memory.allocate(lengthBytes);
    const journal = new Journal(memory.view, ring.slots);
    return { journal, replay: [], [Symbol.dispose]: () => memory[Symbol.dispose]() };
  }
  const journal = new Journal(platform.memory.view(kept.address, lengthBytes), ring.slots);
  // While no process ran, the frontend may have started over with another ring: a journal is valid only for its own.
  const nonce = derivedNonce(kept.nonce, [...request.ringRefs, request.eventChannel]);
  const open = kept.resume ? journal.recover(nonce, ring.slots, ring.responseProducer) : undefined;
  if (open === undefined) {
    if (kept.resume) checkNothingIsLost(ring, complain);
    journal.begin(nonce, ring.slots, ring.responseProducer);
  } else {
    ring.resume(open.requestConsumer);
    if (open.slots.length > 0) complain(`recovered after a crash: ${open.slots.length} requests are carried out again`);
  }
  return { journal, replay: open?.slots ?? [], [Symbol.dispose]: () => {} };
}

/**
 * Whether a ring can be resumed without its journal. Responses overwrite requests in any order: once there were some, the
 * ring alone does not say which of the unanswered requests are still in it. Throws {@linkcode XenblkError} if there are.
 */
function checkNothingIsLost(ring: BackRing, complain: (line: string) => void): void {
  if (ring.responseProducer !== 0 && ring.unconsumed() !== 0) {
    throw new XenblkError(
      "Cannot continue with the guest's requests: an earlier process left no valid journal of them",
      {
        remedy: "restart the guest, or detach the disk and attach it again",
      },
    );
  }
  complain("an earlier process left no journal, but the ring shows that no request is lost");
}

/** What requests are validated against. */
function limitsOf({ discard: isOffered, properties }: OpenRequest): DiskProperties {
  if (isOffered === true) return properties;
  const { discard: _, ...others } = properties;
  return others;
}

/** A guest that dies can take its end of the channel away: that is no reason to stop serving the others. */
function notifyFrontend(events: EventChannels, port: EvtchnPort, complain: (line: string) => void): void {
  try {
    events.notify(port);
  } catch (error) {
    complain(errorText(error));
  }
}

/** Grants that a ring may have mapped at a time: its own pages and, twice over, those of all requests in flight. */
export const GRANTS_PER_RING: number = MAX_RING_PAGES + 2 * MOST_PAGES_PER_RING;
