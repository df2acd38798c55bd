/**
 * The executor on a stand-in for a file. The stand-in transfers short, is interrupted and fails on request, as no real
 * file does. Also how thrown errors become errno values.
 */

import { EBADF, EFAULT, EINTR, EIO, ENOSPC } from "../../lib/errno.ts";
import { assertEquals } from "@std/assert";
import type { MemorySpace } from "../../lib/hypervisor.ts";
import { errnoOf } from "../../lib/storage/errno.ts";
import { type BlockFile, FileExecutor, OPERATION, type Operation } from "../../lib/storage/engine/executor.ts";
import type { CacheMode } from "../../lib/storage/disk.ts";
import { MemoryViews } from "../../lib/storage/engine/views.ts";

/** What a call of the stand-in does: transfers at most so many bytes, or throws. */
type Step = number | Error;

/** A file over `data`; each read or write takes the next step, and all it is asked for when there is none left. */
class FakeFile implements BlockFile {
  position = 0;
  readonly calls: string[] = [];

  constructor(readonly data: Uint8Array, readonly steps: Step[]) {}

  seekSync(offset: number | bigint): number {
    return this.position = Number(offset);
  }

  readSync(into: Uint8Array): number | null {
    return this.#transfer("read", into.byteLength, (bytes) => into.set(bytes)) || null;
  }

  writeSync(from: Uint8Array): number {
    return this.#transfer("write", from.byteLength, (bytes) => bytes.set(from.subarray(0, bytes.byteLength)));
  }

  syncDataSync(): void {
    this.calls.push("sync");
    const step = this.steps.shift();
    if (step instanceof Error) throw step;
  }

  close(): void {}

  #transfer(name: string, asked: number, move: (bytes: Uint8Array) => void): number {
    this.calls.push(`${name} ${this.position}+${asked}`);
    const step = this.steps.shift() ?? asked;
    if (step instanceof Error) throw step;
    const bytes = this.data.subarray(this.position, this.position + Math.min(step, asked));
    move(bytes);
    this.position += bytes.byteLength;
    return bytes.byteLength;
  }
}

/** Runs one operation over these vectors (addresses into `memory`) on the stand-in. */
function run(
  file: FakeFile,
  operation: Operation,
  offsetBytes: number,
  vectors: readonly (readonly [address: number, length: number])[],
  memory: Uint8Array = new Uint8Array(4096),
  cache: CacheMode = "writeback",
): number {
  const space: MemorySpace = {
    allocate: () => {
      throw new RangeError("no memory to allocate");
    },
    view: (address, length) => new Uint8Array(memory.buffer, address, length),
  };
  const addresses = Float64Array.from(vectors, ([address]) => address);
  const lengths = Uint32Array.from(vectors, ([, length]) => length);
  using executor = new FileExecutor(file, cache);
  const views = new MemoryViews(space, undefined);
  return executor.execute(operation, offsetBytes, { addresses, lengths }, 0, vectors.length, views);
}

function assertNever(): never {
  throw new Error("a flush needs no memory");
}

const counting = (length: number): Uint8Array => Uint8Array.from({ length }, (_, i) => i % 251);
const osError = (code: string): Error => Object.assign(new Error(`something (os error 1)`), { code });

Deno.test("short reads are continued where they stopped", () => {
  const file = new FakeFile(counting(4096), [100, 1, 411]);
  const memory = new Uint8Array(4096);
  assertEquals(run(file, OPERATION.read, 1024, [[512, 1024]], memory), 0);
  assertEquals(memory.subarray(512, 1536), counting(4096).subarray(1024, 2048));
  assertEquals(file.calls, ["read 1024+1024", "read 1124+924", "read 1125+923", "read 1536+512"]);
});

Deno.test("short writes are continued where they stopped", () => {
  const file = new FakeFile(new Uint8Array(4096), [7, 505]);
  const memory = counting(4096);
  assertEquals(run(file, OPERATION.write, 512, [[0, 1024]], memory), 0);
  assertEquals(file.data.subarray(512, 1536), memory.subarray(0, 1024));
});

Deno.test("interrupted calls are retried a limited number of times", () => {
  const interrupted = new Deno.errors.Interrupted("interrupted");
  const file = new FakeFile(counting(4096), [interrupted, 10, interrupted, osError("EAGAIN")]);
  assertEquals(run(file, OPERATION.read, 0, [[0, 512]]), 0);
  assertEquals(file.calls.length, 5);
  const stubborn = new FakeFile(counting(4096), new Array<Step>(2000).fill(interrupted));
  assertEquals(run(stubborn, OPERATION.read, 0, [[0, 512]]), -EINTR);
});

Deno.test("the end of the file within a read is an I/O error, not zeroes", () => {
  const file = new FakeFile(counting(700), []);
  assertEquals(run(file, OPERATION.read, 512, [[0, 512]]), -EIO);
});

Deno.test("a write that makes no progress is an I/O error", () => {
  assertEquals(run(new FakeFile(new Uint8Array(512), [0]), OPERATION.write, 0, [[0, 512]]), -EIO);
});

Deno.test("an error in the middle ends the operation with its errno", () => {
  const file = new FakeFile(new Uint8Array(4096), [512, osError("ENOSPC")]);
  assertEquals(run(file, OPERATION.write, 0, [[0, 512], [1024, 512], [2048, 512]]), -ENOSPC);
  assertEquals(file.calls.length, 2);
});

Deno.test("vectors that follow each other in memory share a call, others do not", () => {
  const file = new FakeFile(counting(8192), []);
  const memory = new Uint8Array(8192);
  const vectors = [[0, 512], [512, 1024], [2048, 512], [1536, 512], [2560, 512]] as const;
  assertEquals(run(file, OPERATION.read, 0, vectors, memory), 0);
  assertEquals(file.calls, ["read 0+1536", "read 1536+512", "read 2048+512", "read 2560+512"]);
  assertEquals(memory.subarray(1536, 2048), counting(8192).subarray(2048, 2560));
});

Deno.test("a failed flush is reported", () => {
  assertEquals(run(new FakeFile(new Uint8Array(0), [osError("EIO")]), OPERATION.flush, 0, []), -EIO);
});

Deno.test("a flush that is interrupted is made again; after one that failed, all fail that use the same file", () => {
  const file = new FakeFile(new Uint8Array(0), [osError("EINTR"), osError("EIO")]);
  using executor = new FileExecutor(file);
  const none = { addresses: new Float64Array(0), lengths: new Uint32Array(0) };
  const views = new MemoryViews({ allocate: () => assertNever(), view: () => assertNever() }, undefined);
  const flush = (): number => executor.execute(OPERATION.flush, 0, none, 0, 0, views);
  assertEquals([flush(), flush()], [-EIO, -EIO]); // the kernel would let the second one pass
  assertEquals(file.steps, []);
});

Deno.test("a flush that is always interrupted fails in the end", () => {
  const interrupted = Array.from({ length: 2000 }, () => osError("EINTR"));
  assertEquals(run(new FakeFile(new Uint8Array(0), interrupted), OPERATION.flush, 0, []), -EINTR);
});

Deno.test("with writethrough each write is followed by a sync, and a failed sync fails the write; a read is not", () => {
  const data = new Uint8Array(1024);
  const memory = counting(4096);
  for (const [steps, result] of [[[], 0], [[512, osError("EIO")], -EIO]] as const) {
    const file = new FakeFile(data, [...steps]);
    assertEquals(run(file, OPERATION.write, 512, [[0, 512]], memory, "writethrough"), result);
    assertEquals(file.calls, ["write 512+512", "sync"]);
  }
  const file = new FakeFile(data, []);
  assertEquals(run(file, OPERATION.read, 512, [[0, 512]], memory, "writethrough"), 0);
  assertEquals(file.calls, ["read 512+512"]);
});

Deno.test("memory that cannot be viewed is EFAULT", () => {
  assertEquals(run(new FakeFile(counting(512), []), OPERATION.read, 0, [[2 ** 40, 512]]), -EFAULT);
});

Deno.test("errors become errnos by code, by number, by class, and else EIO", () => {
  const codes: Record<string, number> = {
    EIO: -5,
    ENOSPC: -28,
    EDQUOT: -122,
    EROFS: -30,
    EBADF: -9,
    EFBIG: -27,
    EINVAL: -22,
  };
  for (const [code, errno] of Object.entries(codes)) assertEquals(errnoOf(osError(code)), errno);
  assertEquals(errnoOf(new Error("Remote I/O error (os error 121): write")), -121);
  assertEquals(errnoOf(new Deno.errors.BadResource("gone")), -EBADF);
  assertEquals(errnoOf(new Error("odd")), -EIO);
  assertEquals(errnoOf("odd"), -EIO);
});
