/**
 * Producer indices that make no sense, and how often a guest is notified: the ring stops for good without another byte
 * changing, or goes on, at every place of the free-running indices.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { answerTo, direct, OKAY, READ, WRITE } from "./rows.ts";
import { ABI_NAMES, World } from "./world.ts";

/** Where indices begin: at zero, before the sign changes, before the wrap. */
const STARTS = [0, 2 ** 31 - 3, 2 ** 32 - 5];
/** How far a producer index is from the last honest one. */
const LEAPS = [33, 34, 64, 2 ** 16, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 33, 2 ** 32 - 2, 2 ** 32 - 1];

/** Every ABI at every one of those places. */
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
        // Nor does it come back to life with an index that would have been possible.
        world.publish(world.produced - leap + 1);
        world.run();
        assertEquals(world.takeAnswers(), []);
      }
    }
  });
}

Deno.test("an index that goes backwards while requests are under way stops the ring; those are finished unanswered", () => {
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

Deno.test("more requests than the slots that unanswered ones leave free stop the ring", () => {
  for (const [abi, startIndex] of PLACES) {
    for (const [more, broken] of [[30, false], [31, true], [32, true]] as const) {
      using world = new World({ abi, startIndex });
      world.send(direct(world, WRITE), direct(world, WRITE));
      world.connection.queue.step();
      assertEquals(world.connection.queue.inFlight, 2);
      world.publish(world.produced + more);
      world.connection.queue.step();
      assertEquals(world.connection.queue.broken !== undefined, broken, `${more} more`);
      while (world.step()); // a ring that is stopped is flushed once more
    }
  }
});

Deno.test("a full ring is served at every place of the indices", () => {
  for (const [abi, startIndex] of PLACES) {
    using world = new World({ abi, startIndex });
    for (let round = 0; round < 3; round++) {
      const requests = Array.from({ length: 32 }, () => direct(world, READ));
      world.send(...requests);
      assertEquals(world.answers(), requests.map((request) => answerTo(request, OKAY)));
    }
  }
});

Deno.test("what a guest writes into its ring's other header words changes nothing", () => {
  for (const abi of ABI_NAMES) {
    using world = new World({ abi });
    const header = new Int32Array(world.ring.view.buffer, world.ring.view.byteOffset, 16);
    const request = direct(world, READ);
    world.send(request);
    header[1] = -1; // req_event, ours
    header[2] = 12345; // rsp_prod, ours
    world.connection.queue.step();
    world.connection.queue.step();
    assertEquals(header[2], 1, "the next answer goes where it belongs");
    assertEquals(world.takeAnswers(), [answerTo(request, OKAY)]);
  }
});

Deno.test("a guest is notified at most once a batch, however it sets its wish for events (XSA-391)", () => {
  const wishes = [0, 1, 7, 2 ** 31, 2 ** 32 - 1];
  for (const [abi, wish] of ABI_NAMES.flatMap((abi) => wishes.map((wish) => [abi, wish] as const))) {
    using world = new World({ abi });
    const header = new Int32Array(world.ring.view.buffer, world.ring.view.byteOffset, 4);
    for (let batch = 1; batch <= 50; batch++) {
      world.send(...Array.from({ length: 8 }, () => direct(world, READ)));
      header[3] = wish;
      world.run();
      header[3] = wish;
      world.takeAnswers();
      const { notificationsSent, notificationsSaved } = world.stats;
      assert(notificationsSent <= batch, `${notificationsSent} notifications in ${batch} batches`);
      assertEquals(notificationsSent + notificationsSaved, batch);
    }
  }
});
