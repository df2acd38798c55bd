/**
 * A watch's queue alone: order, merging, bounds, end.
 */

import { assertEquals } from "@std/assert";
import { MAX_UNREAD_PATHS, WatchQueue } from "../../ffi/xen/xenstore_watch.ts";

/** Everything that the queue yields until it ends. */
async function drain(queue: WatchQueue): Promise<string[]> {
  const paths: string[] = [];
  for await (const path of queue) paths.push(path);
  return paths;
}

Deno.test("watch queue: unread paths come in the order of their first change, each once", async () => {
  const queue = new WatchQueue("/a", () => {});
  for (const path of ["/a", "/a/1", "/a/2", "/a/1", "/a"]) queue.push(path);
  queue.end();
  assertEquals(await drain(queue), ["/a", "/a/1", "/a/2"]);
});

Deno.test("watch queue: a path that was read is reported again when it changes again", async () => {
  const queue = new WatchQueue("/a", () => {});
  const reader = queue[Symbol.asyncIterator]();
  queue.push("/a");
  queue.release();
  assertEquals(await reader.next(), { done: false, value: "/a" });
  queue.push("/a");
  queue.release();
  assertEquals(await reader.next(), { done: false, value: "/a" });
});

Deno.test("watch queue: a waiting reader gets the next event, and the end", async () => {
  const queue = new WatchQueue("/a", () => {});
  const reader = queue[Symbol.asyncIterator]();
  const waiting = [reader.next(), reader.next()];
  queue.push("/a/x");
  queue.release();
  queue.end();
  assertEquals(await Promise.all(waiting), [{ done: false, value: "/a/x" }, { done: true, value: undefined }]);
});

Deno.test("watch queue: an event reaches its reader only when it is released", async () => {
  const queue = new WatchQueue("/a", () => {});
  let read: string | undefined;
  const reading = queue[Symbol.asyncIterator]().next().then(({ value }) => read = value);
  queue.push("/a/x");
  await Promise.resolve();
  assertEquals(read, undefined);
  queue.release();
  assertEquals(await reading, "/a/x");
});

Deno.test("watch queue: a flood of different paths is bounded and becomes one change of the watched path", async () => {
  const queue = new WatchQueue("/a", () => {});
  for (let index = 0; index <= MAX_UNREAD_PATHS; index++) queue.push(`/a/${index}`);
  queue.release();
  queue.push("/a/after");
  queue.end();
  assertEquals(await drain(queue), ["/a", "/a/after"]);
});

Deno.test("watch queue: disposal drops what is unread, ends the reader and unregisters once", async () => {
  let unregistered = 0;
  const queue = new WatchQueue("/a", () => unregistered++);
  queue.push("/a");
  queue[Symbol.dispose]();
  queue[Symbol.dispose]();
  queue.push("/a");
  assertEquals(await drain(queue), []);
  assertEquals(unregistered, 1);
});
