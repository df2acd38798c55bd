/**
 * The history of a disk: which writes a read may return, whether they overlap it or one another, and what a power
 * failure may leave of writes that were answered, flushed, or neither.
 */

import { assertEquals, assertMatch } from "@std/assert";
import { History, PRISTINE } from "./history.ts";

Deno.test("a read may return earlier data or a concurrent write, but nothing that was overwritten before", () => {
  const history = new History(4);
  const first = history.beginWrite(0, 2, 10);
  assertEquals(history.observe(0, PRISTINE, 11, 12), undefined);
  assertEquals(history.observe(0, first.id, 11, 12), undefined);
  assertMatch(history.observe(0, PRISTINE, 13, 14)!, /write 0 was overwritten by write 1/); // write 1 was seen by then
  assertEquals(history.observe(1, PRISTINE, 13, 14), undefined); // but not in this sector
  history.endWrite(first, true, 20);
  assertEquals(history.observe(1, PRISTINE, 19, 30), undefined);
  assertMatch(history.observe(1, PRISTINE, 21, 30)!, /overwritten/);
  assertMatch(history.observe(2, first.id, 21, 30)!, /never asked for/);
});

Deno.test("either of two concurrent writes may remain; a failed write may have happened, but not later", () => {
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

Deno.test("a power failure may undo writes that were not flushed, and no others", () => {
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
  for (const id of [2, 3]) assertEquals(crash(26, id), undefined); // a later write may have reached the medium
  assertMatch(crash(35, 2)!, /write 3 was answered/);
});

Deno.test("a forgiven write need not survive; after a power failure only what was found may be read", () => {
  const history = new History(1);
  const write = history.beginWrite(0, 1, 1);
  history.endWrite(write, true, 2);
  history.forgive();
  history.flushed(10);
  assertEquals(history.crashed(() => PRISTINE, 20), undefined);
  assertMatch(history.observe(0, write.id, 21, 22)!, /never asked for/);
  assertEquals(history.observe(0, PRISTINE, 21, 22), undefined);
});
