/**
 * The filter `log`: records every request in a trace (docs/trace.md). The channel puts records into shared memory; a Worker
 * of the disk's writes them, so neither the guest nor the reactor waits for the file.
 */

import { parseSize } from "../../sizes.ts";
import { checkTracePath } from "../../trace/check.ts";
import { TRACE_OPERATIONS, TraceRecord } from "../../trace/record.ts";
import { TraceProducer } from "../../trace/rings.ts";
import { TraceWriter } from "../../trace/writer.ts";
import { SECTOR_BYTES } from "../../units.ts";
import type { ChannelContext, ChannelOptions, DiskAttachment, IoChannel, IoVectors } from "../disk.ts";
import type { FilterAttachment, FilterDefinition, FilterHold, FilterValue } from "./filter.ts";

/** Options of the filter `log`. */
export interface LogOptions {
  /** The trace: a path. `{device}` in it becomes the device's label, such as `vbd3-5-51712`. */
  readonly file: string;
  /** Most bytes of the file: a number, or a text such as `10G`; 0: no limit. Default 1 GiB. */
  readonly limit?: number | string;
}

const DEFAULT_LIMIT_BYTES = 2 ** 30;
/** Two blocks: one of them has records. */
const LEAST_LIMIT_BYTES = 8192;

/** In the name of the trace. */
const DEVICE = "{device}";

/** What all channels to one disk share. */
interface LogState {
  readonly memory: SharedArrayBuffer;
  /** When the session began: milliseconds since 1970. */
  readonly startMs: number;
}

/** See FilterModule. */
export const filter: FilterDefinition = {
  summary: "Records every request in a trace, without its data",
  options: {
    file: {
      help: "The trace; {device} in its name becomes the device's label. A trace that is there is continued",
      placeholder: "TRACE",
      allowed: "a path",
      parse: (value) => typeof value === "string" && value !== "" ? value : undefined,
    },
    limit: {
      help: "Most bytes of the trace; requests beyond that are counted only; 0: no limit",
      placeholder: "SIZE",
      allowed: "0, or a size such as 64M or 10G, from 8K on",
      parse: limitBytes,
      fallback: DEFAULT_LIMIT_BYTES,
    },
  },
  check: ({ file }) => checkTracePath(String(file), DEVICE),
  async open({ sectors, logicalSectorBytes }, { file, limit }, { device, warn }): Promise<FilterHold> {
    const startMs = Date.now();
    const writer = await TraceWriter.open({
      path: String(file).replaceAll(DEVICE, device.replaceAll("/", "-")),
      session: { sectors, logicalSectorBytes, startMs, disk: device },
      ...(limit === 0 ? {} : { limitBytes: Number(limit) }),
      warn,
    });
    const state: LogState = { memory: writer.memory, startMs };
    return { state, [Symbol.asyncDispose]: () => writer[Symbol.asyncDispose]() };
  },
};

function limitBytes(value: FilterValue): number | undefined {
  try {
    const bytes = parseSize(String(value));
    return bytes === 0 || bytes >= LEAST_LIMIT_BYTES ? bytes : undefined;
  } catch {
    return undefined;
  }
}

/** See DiskModule. */
export function openChannel(attachment: DiskAttachment, options: ChannelOptions, context: ChannelContext): IoChannel {
  const { inner, state } = attachment as FilterAttachment;
  const { memory, startMs } = state as LogState;
  const channel = context.openChannel(inner, options);
  const producer = TraceProducer.open(memory);
  if (producer === undefined) return channel; // more rings than a device can have
  const { platform } = context;
  // Threads have clocks of their own; what they agree on is the time of day when each began.
  const originMs = performance.timeOrigin + performance.now() - startMs - platform.now();
  return new LogChannel(channel, producer, options, () => (originMs + platform.now()) * 1000);
}

const READ = TRACE_OPERATIONS.indexOf("read");
const WRITE = TRACE_OPERATIONS.indexOf("write");
const FLUSH = TRACE_OPERATIONS.indexOf("flush");
const DISCARD = TRACE_OPERATIONS.indexOf("discard");

/** Passes everything on, and records it when it is over. */
class LogChannel implements IoChannel {
  readonly #inner: IoChannel;
  readonly #producer: TraceProducer;
  readonly #vectors: IoVectors;
  /** Microseconds since the session began. */
  readonly #clock: () => number;
  readonly #record = new TraceRecord();
  /** By tag. */
  readonly #timeUs: Float64Array;
  readonly #operation: Uint8Array;
  readonly #sector: Float64Array;
  readonly #sectorCount: Float64Array;
  readonly #secure: Uint8Array;
  /** The time of all operations since the last submit; negative: there are none. */
  #submitUs = -1;

  constructor(
    inner: IoChannel,
    producer: TraceProducer,
    { depth, vectors }: ChannelOptions,
    clock: () => number,
  ) {
    this.#inner = inner;
    this.#producer = producer;
    this.#vectors = vectors;
    this.#clock = clock;
    this.#timeUs = new Float64Array(depth);
    this.#operation = new Uint8Array(depth);
    this.#sector = new Float64Array(depth);
    this.#sectorCount = new Float64Array(depth);
    this.#secure = new Uint8Array(depth);
  }

  get tags(): Uint32Array {
    return this.#inner.tags;
  }

  get results(): Int32Array {
    return this.#inner.results;
  }

  get inFlight(): number {
    return this.#inner.inFlight;
  }

  get dueMs(): number {
    return this.#inner.dueMs ?? Infinity;
  }

  get isResting(): boolean {
    return this.inFlight === 0 && (this.#inner.dueMs === undefined || this.#inner.isResting === true);
  }

  read(tag: number, offsetBytes: number, first: number, count: number): void {
    this.#note(tag, READ, offsetBytes, this.#bytesOf(first, count), false);
    this.#inner.read(tag, offsetBytes, first, count);
  }

  write(tag: number, offsetBytes: number, first: number, count: number): void {
    this.#note(tag, WRITE, offsetBytes, this.#bytesOf(first, count), false);
    this.#inner.write(tag, offsetBytes, first, count);
  }

  flush(tag: number): void {
    this.#note(tag, FLUSH, 0, 0, false);
    this.#inner.flush(tag);
  }

  discard(tag: number, offsetBytes: number, lengthBytes: number, secure: boolean): void {
    this.#note(tag, DISCARD, offsetBytes, lengthBytes, secure);
    this.#inner.discard(tag, offsetBytes, lengthBytes, secure);
  }

  submit(): void {
    this.#submitUs = -1;
    this.#inner.submit();
  }

  reap(): number {
    const count = this.#inner.reap();
    if (count === 0) return 0;
    const { tags, results } = this.#inner;
    const nowUs = this.#clock();
    const record = this.#record;
    for (let i = 0; i < count; i++) {
      const tag = tags[i]!;
      record.timeUs = this.#timeUs[tag]!;
      record.operation = this.#operation[tag]!;
      record.secure = this.#secure[tag] === 1;
      record.sector = this.#sector[tag]!;
      record.sectorCount = this.#sectorCount[tag]!;
      record.errno = -results[i]!;
      record.durationUs = nowUs - record.timeUs;
      this.#producer.put(record);
    }
    this.#producer.publish();
    return count;
  }

  /** A channel that refuses to be closed stays as it is. */
  [Symbol.dispose](): void {
    this.#inner[Symbol.dispose]();
    this.#producer[Symbol.dispose]();
  }

  #note(tag: number, operation: number, offsetBytes: number, lengthBytes: number, secure: boolean): void {
    if (this.#submitUs < 0) this.#submitUs = this.#clock();
    this.#timeUs[tag] = this.#submitUs;
    this.#operation[tag] = operation;
    this.#sector[tag] = offsetBytes / SECTOR_BYTES;
    this.#sectorCount[tag] = lengthBytes / SECTOR_BYTES;
    this.#secure[tag] = secure ? 1 : 0;
  }

  #bytesOf(first: number, count: number): number {
    const { lengths } = this.#vectors;
    let lengthBytes = 0;
    for (let i = first; i < first + count; i++) lengthBytes += lengths[i]!;
    return lengthBytes;
  }
}
