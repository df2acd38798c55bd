/**
 * A program that is started as qemu-storage-daemon is, answers QMP, opens nothing, and misbehaves as its first argument
 * says: `garbage` greets with something else, `no-io-uring` refuses io_uring, `no-direct` refuses O_DIRECT, `slow` takes
 * 200 ms for each answer, `stalls` does too, and 3 s for the first blockdev-add.
 */

import type { QmpObject } from "../../../lib/storage/qemu/qmp.ts";

const [behaviour, ...args] = Deno.args;
const monitor = /path=([^,]*)/.exec(args[args.indexOf("--chardev") + 1]!)![1]!;
const listener = Deno.listen({ transport: "unix", path: monitor });
const exports: QmpObject[] = [];
let hasStalled = false;

function delayMs(command: string): number {
  if (behaviour === "stalls" && command === "blockdev-add" && !hasStalled) {
    hasStalled = true;
    return 3000;
  }
  return behaviour === "slow" || behaviour === "stalls" ? 200 : 0;
}

function answer(command: string, options: QmpObject): QmpObject {
  if (command === "query-block-exports") return { return: exports };
  if (["query-jobs", "query-named-block-nodes", "qom-list"].includes(command)) return { return: [] };
  if (command === "block-export-add") {
    exports.push(options);
    void acceptAll(Deno.listen({ transport: "unix", path: (options.addr as { path: string }).path }));
  }
  if (command === "block-export-del") exports.splice(0);
  if (command === "blockdev-add" && behaviour === "no-io-uring" && options.aio === "io_uring") {
    return { error: { class: "GenericError", desc: "Unable to use io_uring: Operation not permitted" } };
  }
  if (command === "blockdev-add" && behaviour === "no-direct" && options.aio === "native") {
    return { error: { class: "GenericError", desc: "Could not open 'x': filesystem does not support O_DIRECT" } };
  }
  return { return: {} };
}

async function acceptAll(exported: Deno.UnixListener): Promise<void> {
  const clients: Deno.UnixConn[] = [];
  for await (const client of exported) clients.push(client as Deno.UnixConn);
}

for await (const connection of listener) {
  const send = async (value: unknown): Promise<void> =>
    void await connection.write(new TextEncoder().encode(`${JSON.stringify(value)}\n`));
  if (behaviour === "garbage") await connection.write(new TextEncoder().encode("220 mail ready\n"));
  else await send({ QMP: {} });
  let rest = "";
  for await (const text of connection.readable.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n");
    rest = lines.pop()!;
    for (const line of lines) {
      const { execute, arguments: options = {}, id } = JSON.parse(line);
      const waitMs = delayMs(execute);
      if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs));
      await send({ ...answer(execute, options), id });
      if (execute === "quit") Deno.exit(0);
    }
  }
}
