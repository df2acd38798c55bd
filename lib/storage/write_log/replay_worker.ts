/**
 * The Worker that replays one log: opens a channel to the disk, writes one operation after the other, so that the order
 * is the log's, then flushes.
 */

/// <reference lib="deno.worker" />

import { errorText } from "../../errors.ts";
import type { Memory, Parker, Platform } from "../../hypervisor.ts";
import { openPlatform } from "../../modules.ts";
import { DiskModules } from "../channel.ts";
import type { IoChannel, IoVectors } from "../disk.ts";
import { errnoText } from "../errno.ts";
import { SECTOR_BYTES } from "../../units.ts";
import { DiskLog, type LoggedOperation } from "./log.ts";
import type { ReplayAnswer, Replayed, ReplayOrder } from "./replay_order.ts";

/** Bytes that are written at a time. */
const BUFFER_BYTES = 1 << 20;
/** While the disk works the thread looks at least so often. */
const LOOK_MS = 1000;

self.onmessage = async ({ data: order }: MessageEvent<ReplayOrder>): Promise<void> => {
  self.postMessage(await answerTo(order));
};

async function answerTo(order: ReplayOrder): Promise<ReplayAnswer> {
  try {
    return { replayed: await replay(order) };
  } catch (error) {
    return { failure: errorText(error) };
  }
}

async function replay({ platform: descriptor, attachment, log, writes }: ReplayOrder): Promise<Replayed> {
  const platform = await openPlatform(descriptor);
  using owned = new DisposableStack();
  const token = owned.use(platform.createWakeToken());
  const parker = owned.use(platform.openParker(token));
  const modules = new DiskModules({ platform, parker, token });
  await modules.load(attachment);
  const space = modules.openMemory(attachment);
  if (space !== undefined) owned.use(space);
  const memory = space ?? platform.memory;
  const buffer = owned.use(memory.allocate(BUFFER_BYTES));
  const vectors = { addresses: Float64Array.of(buffer.address), lengths: new Uint32Array(1) };
  const channel = modules.openChannel(attachment, { depth: 1, vectors, memory, buffers: buffer });
  using _channel = channel;
  return writeAll(writes ? operationsOf(platform, log) : [], new Writer(channel, parker, buffer, vectors));
}

function operationsOf({ memory }: Platform, { address, lengthBytes }: ReplayOrder["log"]): LoggedOperation[] {
  return new DiskLog(memory.view(address, lengthBytes)).unflushed();
}

function writeAll(operations: readonly LoggedOperation[], writer: Writer): Replayed {
  let bytes = 0;
  for (const { offsetBytes, lengthBytes, data, secure } of operations) {
    if (data === undefined) writer.discard(offsetBytes, lengthBytes, secure);
    else writer.write(offsetBytes, data);
    bytes += data?.byteLength ?? 0;
  }
  writer.flush();
  return { operations: operations.length, bytes };
}

/** Carries out one operation at a time. Throws if the disk reports an error. */
class Writer {
  readonly #channel: IoChannel;
  readonly #parker: Parker;
  readonly #buffer: Memory;
  readonly #vectors: IoVectors;

  constructor(channel: IoChannel, parker: Parker, buffer: Memory, vectors: IoVectors) {
    this.#channel = channel;
    this.#parker = parker;
    this.#buffer = buffer;
    this.#vectors = vectors;
  }

  write(offsetBytes: number, data: Uint8Array): void {
    for (let done = 0; done < data.byteLength; done += BUFFER_BYTES) {
      const piece = data.subarray(done, done + BUFFER_BYTES);
      this.#buffer.view.set(piece);
      this.#vectors.lengths[0] = piece.byteLength;
      this.#channel.write(0, offsetBytes + done, 0, 1);
      this.#finish(`sector ${(offsetBytes + done) / SECTOR_BYTES}`);
    }
  }

  discard(offsetBytes: number, lengthBytes: number, secure: boolean): void {
    this.#channel.discard(0, offsetBytes, lengthBytes, secure);
    this.#finish(`the discard of sector ${offsetBytes / SECTOR_BYTES}`);
  }

  flush(): void {
    this.#channel.flush(0);
    this.#finish("the flush");
  }

  #finish(what: string): void {
    this.#channel.submit();
    while (this.#channel.reap() === 0) this.#parker.park(LOOK_MS);
    const result = this.#channel.results[0]!;
    if (result < 0) throw new Error(`${what}: ${errnoText(result)}`);
  }
}
