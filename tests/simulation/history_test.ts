/**
 * What a disk may hold: which writes a read may see, whether they overlap it or one another, and what a crash may leave
 * of writes that were answered, flushed, or neither.
 */

import { assertEquals, assertMatch } from "@std/assert";
import { History, PRISTINE } from "./history.ts";

Deno.test("a read sees what was there before, or what is written meanwhile, and nothing that is overwritten", () => {
  const history = new History(4);
  const first = history.beginWrite(0, 2, 10);
  assertEquals(history.observe(0, PRISTINE, 11, 12), undefined);
  assertEquals(history.observe(0, first.id, 11, 12), undefined);
  assertMatch(history.observe(0, PRISTINE, 13, 14)!, /write 0 was overwritten by write 1/); // it was seen by then
  assertEquals(history.observe(1, PRISTINE, 13, 14), undefined); // in this sector nobody has
  history.endWrite(first, true, 20);
  assertEquals(history.observe(1, PRISTINE, 19, 30), undefined);
  assertMatch(history.observe(1, PRISTINE, 21, 30)!, /overwritten/);
  assertMatch(history.observe(2, first.id, 21, 30)!, /never asked for/);
});

Deno.test("of writes that overlap either may remain; a failed one may have happened, but not later", () => {
  const history = new History(1);
  const [a, b] = [history.beginWrite(0, 1, 1), history.beginWrite(0, 1, 2)];
  history.endWrite(a, true, 3);
  history.endWrite(b, true, 4);
  for (const write of [a, b]) assertEquals(history.observe(0, write.id, 10, 11), undefined);
  const failed = history.beginWrite(0, 1, 12);
  history.endWrite(failed, false, 13);
  assertEquals(history.observe(0, b.id, 20, 21), undefined);
  assertEquals(history.observe(0, failed.id, 22, 23), undefined);
  assertMatch(history.observe(0, b.id, 24, 25)!, /overwritten/);
});

Deno.test("a crash may undo what was not flushed, and nothing that was", () => {
  const crash = (flushed: number, id: number): string | undefined => {
    const history = new History(1);
    const writes = [10, 20, 30].map((at) => {
      const write = history.beginWrite(0, 1, at);
      history.endWrite(write, true, at + 5);
      return write;
    });
    history.flushed(flushed);
    return history.crashed(() => id === 0 ? PRISTINE : writes[id - 1]!.id, 100);
  };
  for (const id of [0, 1, 2, 3]) assertEquals(crash(0, id), undefined);
  assertMatch(crash(26, 0)!, /holds write 0, but write \d was answered and flushed/);
  assertMatch(crash(26, 1)!, /holds write 1, but write 2 was answered and flushed/);
  for (const id of [2, 3]) assertEquals(crash(26, id), undefined); // a later one may have reached the medium
  assertMatch(crash(35, 2)!, /write 3 was answered/);
});

Deno.test("what was forgiven is never promised, and after a crash what was found is all there is", () => {
  const history = new History(1);
  const write = history.beginWrite(0, 1, 1);
  history.endWrite(write, true, 2);
  history.forgive();
  history.flushed(10);
  assertEquals(history.crashed(() => PRISTINE, 20), undefined);
  assertMatch(history.observe(0, write.id, 21, 22)!, /never asked for/);
  assertEquals(history.observe(0, PRISTINE, 21, 22), undefined);
});
