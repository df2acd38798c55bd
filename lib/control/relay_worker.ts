/**
 * The Worker of one relay: takes connections on a socket of ours, and passes their bytes on to another socket. A thread of
 * its own, because a reader copies a whole disk through it.
 */

/// <reference lib="deno.worker" />

import { errorText } from "../errors.ts";
import type { RelayAnswer, RelayOrder } from "./relay_order.ts";

/** Bytes that are passed on at a time. */
const BUFFER_BYTES = 256 << 10;
/** Readers at the same time; the next one is closed at once. */
const MOST_READERS = 16;

self.onmessage = async ({ data: order }: MessageEvent<RelayOrder>): Promise<void> => {
  const answer = (message: RelayAnswer): void => self.postMessage(message);
  try {
    const listener = await listen(order);
    answer({ port: listener.addr.transport === "tcp" ? listener.addr.port : 0 });
    await acceptFor(listener, order.target);
    answer({ failure: "its socket was closed" });
  } catch (error) {
    answer({ failure: errorText(error) });
  }
};

async function listen({ listen }: RelayOrder): Promise<Deno.Listener<Deno.Conn>> {
  if (!("path" in listen)) return Deno.listen({ transport: "tcp", ...listen });
  const listener = Deno.listen({ transport: "unix", path: listen.path });
  await Deno.chmod(listen.path, 0o600);
  return listener;
}

async function acceptFor(listener: Deno.Listener<Deno.Conn>, target: string): Promise<void> {
  let readers = 0;
  for await (const reader of listener) {
    if (readers === MOST_READERS) {
      reader.close();
      continue;
    }
    readers++;
    void relay(reader, target).finally(() => readers--);
  }
}

/** Until one side closes, which closes the other. */
async function relay(reader: Deno.Conn, target: string): Promise<void> {
  try {
    using _reader = reader;
    using server = await Deno.connect({ transport: "unix", path: target });
    await Promise.race([pass(reader, server), pass(server, reader)]);
  } catch { /* the export is gone, or the reader */ }
}

async function pass(from: Deno.Conn, to: Deno.Conn): Promise<void> {
  const buffer = new Uint8Array(BUFFER_BYTES);
  for (let count = await from.read(buffer); count !== null; count = await from.read(buffer)) {
    for (let done = 0; done < count;) done += await to.write(buffer.subarray(done, count));
  }
}
