/**
 * Impossible producer indices stop a ring for good without changing another byte of it, possible ones are served, and a
 * guest is notified at most once per batch: wherever the free-running indices are.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { answerTo, direct, OKAY, READ, WRITE } from "./rows.ts";
import { ABI_NAMES, World } from "./world.ts";

/** Initial indices: zero, shortly before the sign changes, shortly before the wrap. */
const STARTS = [0, 2 ** 31 - 3, 2 ** 32 - 5];
/** Distances of an impossible producer index from the last correct one. */
const LEAPS = [33, 34, 64, 2 ** 16, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 33, 2 ** 32 - 2, 2 ** 32 - 1];

/** Every ABI at each of these indices. */
const PLACES = ABI_NAMES.flatMap((abi) => STARTS.map((startIndex) => [abi, startIndex] as const));

for (const abi of ABI_NAMES) {
  Deno.test(`an impossible producer index stops the ring, whatever it is, ${abi}`, () => {
    for (const startIndex of STARTS) {
      for (const leap of LEAPS) {
        using world = new World({ abi, startIndex, grants: "copy" });
        const request = direct(world, WRITE);
        world.send(request);
        assertEquals(world.answers(), [answerTo(request, OKAY)]);
        const disk = world.disk.slice();
        world.publish(world.produced + leap);
        const ring = world.ring.view.slice();
        world.run();
        assertMatch(world.connection.queue.broken ?? "", /impossible/, `${startIndex} + ${leap}`);
        assertEquals(world.connection.queue.state, "drained");
        assertEquals(world.ring.view, ring, "no byte of the ring changed");
        assertEquals(world.disk, disk);
        // It stays stopped, even with an index that would have been possible.
        world.publish(world.produced - leap + 1);
        world.run();
        assertEquals(world.takeAnswers(), []);
      }
    }
  });
}

Deno.test("an index that goes backwards while requests are in flight stops the ring; they finish unanswered", () => {
  for (const abi of ABI_NAMES) {
    using world = new World({ abi });
    world.send(direct(world, WRITE), direct(world, WRITE, { sector: 16n }));
    world.connection.queue.step();
    assertEquals(world.connection.queue.inFlight, 2);
    world.publish(world.produced - 1);
    world.run();
    assertMatch(world.connection.queue.broken ?? "", /impossible/);
    assertEquals([world.connection.queue.inFlight, world.connection.queue.state], [0, "drained"]);
    assertEquals(world.takeAnswers(), []);
  }
});

Deno.test("more requests than free slots, beside unanswered ones, stop the ring", () => {
  for (const [abi, startIndex] of PLACES) {
    for (const [more, broken] of [[30, false], [31, true], [32, true]] as const) {
      using world = new World({ abi, startIndex });
      world.send(direct(world, WRITE), direct(world, WRITE));
      world.connection.queue.step();
      assertEquals(world.connection.queue.inFlight, 2);
      world.publish(world.produced + more);
      world.connection.queue.step();
      assertEquals(world.connection.queue.broken !== undefined, broken, `${more} more`);
      while (world.step()); // a stopped ring is flushed once more
    }
  }
});

Deno.test("a full ring is served wherever the indices are", () => {
  for (const [abi, startIndex] of PLACES) {
    using world = new World({ abi, startIndex });
    for (let round = 0; round < 3; round++) {
      const requests = Array.from({ length: 32 }, () => direct(world, READ));
      world.send(...requests);
      assertEquals(world.answers(), requests.map((request) => answerTo(request, OKAY)));
    }
  }
});

Deno.test("a guest that writes the backend's words of the ring header changes nothing", () => {
  for (const abi of ABI_NAMES) {
    using world = new World({ abi });
    const header = new Int32Array(world.ring.view.buffer, world.ring.view.byteOffset, 16);
    const request = direct(world, READ);
    world.send(request);
    header[1] = -1; // req_event
    header[2] = 12345; // rsp_prod
    world.connection.queue.step();
    world.connection.queue.step();
    assertEquals(header[2], 1, "the next answer goes where it belongs");
    assertEquals(world.takeAnswers(), [answerTo(request, OKAY)]);
  }
});

Deno.test("a guest is notified at most once per batch, whatever its rsp_event (XSA-391)", () => {
  const events = [0, 1, 7, 2 ** 31, 2 ** 32 - 1];
  for (const [abi, event] of ABI_NAMES.flatMap((abi) => events.map((event) => [abi, event] as const))) {
    using world = new World({ abi });
    const header = new Int32Array(world.ring.view.buffer, world.ring.view.byteOffset, 4);
    for (let batch = 1; batch <= 50; batch++) {
      world.send(...Array.from({ length: 8 }, () => direct(world, READ)));
      header[3] = event;
      world.run();
      header[3] = event;
      world.takeAnswers();
      const { notificationsSent, notificationsSaved } = world.stats;
      assert(notificationsSent <= batch, `${notificationsSent} notifications in ${batch} batches`);
      assertEquals(notificationsSent + notificationsSaved, batch);
    }
  }
});
