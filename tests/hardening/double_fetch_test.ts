/**
 * A guest that rewrites memory while the backend reads it (XSA-155): deterministically, by overwriting it right after
 * the queue has copied it; and with a second thread that keeps overwriting the ring while the queue serves it.
 */

import { assert, assertEquals } from "@std/assert";
import { BackRing } from "../../lib/blkif/back_ring.ts";
import type { GrantTable } from "../../lib/hypervisor.ts";
import { answerTo, direct, FLUSH, indirect, OKAY, READ, segment, WRITE } from "./rows.ts";
import type { ScribbleOrder } from "./scribble_worker.ts";
import { overlay, withCopyBatch, withGrantTable } from "./wrap.ts";
import { GRANT_MODES, SHAPES, World } from "./world.ts";

/** Both must be reached: about 0.7 s on an idle machine. */
const LEAST_ANSWERS = 180_000;
const LEAST_ROUNDS = 7_000;
const PATIENCE_MS = 120_000;

/** Calls back after each copy of a request out of a ring, until it is disposed. */
function watchCopies(copied: () => void): Disposable {
  const { take } = BackRing.prototype;
  BackRing.prototype.take = function (snapshot, word): void {
    take.call(this, snapshot, word);
    copied();
  };
  return { [Symbol.dispose]: () => void (BackRing.prototype.take = take) };
}

for (const grants of GRANT_MODES) {
  Deno.test(`a request is served as it was copied, though its slot changes right after, ${grants}`, () => {
    for (const shape of SHAPES) {
      for (const fill of [0, 1, 5, 6, 0x7f, 0xff]) {
        const worlds: World[] = [];
        let copies = 0;
        const rewrite = (): void => {
          copies++;
          worlds[0]?.ring.view.fill(fill, 64);
        };
        using _watch = watchCopies(rewrite);
        using world = new World({ ...shape, grants });
        worlds.push(world);
        world.page(1).fill(0xab);
        const [first, last] = shape.sectorBytes === 512 ? [1, 2] : [0, 7];
        const request = direct(world, WRITE, { sector: 40n, segments: [segment(world, 1, first, last)] });
        world.send(request);
        while (world.step());
        assertEquals(copies, 1, "a request is copied once");
        assertEquals(world.takeAnswers(), [answerTo(request, OKAY)]);
        assert(world.disk.subarray(40 * 512, (41 + last - first) * 512).every((byte) => byte === 0xab));
        world.checkCanaries();
      }
    }
  });
}

for (const grants of GRANT_MODES) {
  Deno.test(`an indirect request is served as copied, though its page of segments changes right after, ${grants}`, () => {
    for (const shape of SHAPES) {
      for (const fill of [0, 7, 0xff]) {
        const worlds: World[] = [];
        const rewrite = (table: GrantTable): GrantTable =>
          withCopyBatch(table, (batch) =>
            overlay(batch, {
              run: () => {
                const result = batch.run();
                worlds[0]?.grants.lists.view.fill(fill);
                return result;
              },
            }));
        using world = new World({ ...shape, grants, wrap: (platform) => withGrantTable(platform, rewrite) });
        worlds.push(world);
        world.page(1).fill(0xab);
        const request = indirect(world, WRITE, 12, {
          sector: 40n,
          segments: Array.from({ length: 12 }, () => segment(world, 1)),
        });
        world.send(request);
        assertEquals(world.answers(), [answerTo(request, OKAY)]);
        assert(world.disk.subarray(40 * 512, 136 * 512).every((byte) => byte === 0xab));
      }
    }
  });
}

/** A Worker that overwrites the ring until it is disposed. */
class Scribbler implements AsyncDisposable {
  readonly #worker = new Worker(new URL("./scribble_worker.ts", import.meta.url), { type: "module" });
  readonly #stop = new Int32Array(new SharedArrayBuffer(8));
  readonly #ended = Promise.withResolvers<void>();

  async start(order: Omit<ScribbleOrder, "control">): Promise<void> {
    const started = Promise.withResolvers<void>();
    this.#worker.onmessage = ({ data }: MessageEvent<string>): void => {
      if (data === "started") started.resolve();
      else this.#ended.resolve();
    };
    this.#worker.postMessage({ ...order, control: this.#stop.buffer });
    await started.promise;
  }

  /** Times it has overwritten the whole ring. */
  get rounds(): number {
    return Atomics.load(this.#stop, 1);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    Atomics.store(this.#stop, 0, 1);
    await this.#ended.promise;
    this.#worker.terminate();
  }
}

for (const grants of GRANT_MODES) {
  Deno.test(`requests that another thread keeps rewriting touch nothing but the disk, ${grants}`, async () => {
    using world = new World({ grants, abi: grants === "map" ? "x86_32-abi" : "x86_64-abi" });
    await using scribbler = new Scribbler();
    await scribbler.start({
      ring: world.ring.view,
      lists: world.grants.lists.view,
      listRefs: world.grants.lists.refs,
      grefs: [...world.grants.data.refs, world.grants.readOnly.refs[0]!, world.grants.revoked, 2 ** 32 - 1],
      seed: 7,
      strideBytes: world.abi === "x86_32-abi" ? 108 : 112,
      idBytes: world.abi === "x86_32-abi" ? 4 : 8,
    });
    let answered = 0;
    for (const start = performance.now(); answered < LEAST_ANSWERS || scribbler.rounds < LEAST_ROUNDS;) {
      const late = performance.now() - start > PATIENCE_MS;
      assert(!late, `only ${answered} requests, ${scribbler.rounds} rounds of scribbling`);
      const count = Math.min(16, world.free);
      for (let i = 0; i < count; i++) world.publish(world.produced + 1);
      let steps = 0;
      while (world.step()) assert(steps++ < 1000);
      answered += world.takeAnswers().length;
      world.checkCanaries();
    }
    assertEquals(world.connection.queue.broken, undefined);
  });
}

Deno.test("a queue drains although its slots were overwritten while requests are in flight", () => {
  using world = new World();
  const requests = [direct(world, FLUSH, { segments: [] }), direct(world, READ)];
  world.send(...requests);
  world.connection.queue.step();
  world.ring.view.fill(0xff, 64);
  world.connection.queue.drain();
  while (world.step());
  assertEquals(world.connection.queue.state, "drained");
  assertEquals(world.takeAnswers().length, 2);
});
