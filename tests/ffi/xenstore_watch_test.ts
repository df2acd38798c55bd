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
  assertEquals(await reader.next(), { done: false, value: "/a" });
  queue.push("/a");
  assertEquals(await reader.next(), { done: false, value: "/a" });
});

Deno.test("watch queue: a waiting reader gets the next event, and the end", async () => {
  const queue = new WatchQueue("/a", () => {});
  const reader = queue[Symbol.asyncIterator]();
  const waiting = [reader.next(), reader.next()];
  queue.push("/a/x");
  queue.end();
  assertEquals(await Promise.all(waiting), [{ done: false, value: "/a/x" }, { done: true, value: undefined }]);
});

Deno.test("watch queue: a flood of different paths is bounded and becomes one change of the watched path", async () => {
  const queue = new WatchQueue("/a", () => {});
  for (let index = 0; index <= MAX_UNREAD_PATHS; index++) queue.push(`/a/${index}`);
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
