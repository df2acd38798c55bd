/**
 * Lines over byte streams: a target that takes nothing costs a bounded amount of memory, and `serve --json` writes each
 * event as one line.
 */

import { assert, assertEquals } from "@std/assert";
import { writeEvents } from "../../lib/control/event_lines.ts";
import { type ByteTarget, LineWriter } from "../../lib/control/lines.ts";
import { Rig } from "./rig.ts";

/** Collects what is written, in small pieces, once it is open. */
class Collector implements ByteTarget {
  text = "";
  readonly opened = Promise.withResolvers<void>();

  async write(bytes: Uint8Array): Promise<number> {
    await this.opened.promise;
    this.text += new TextDecoder().decode(bytes.subarray(0, 100));
    return Math.min(bytes.length, 100);
  }
}

Deno.test("a target that takes nothing gets what the bound allows, and the last line", async () => {
  const target = new Collector();
  const writer = new LineWriter(target, 1_000);
  const line = "x".repeat(299);
  const taken = Array.from({ length: 10 }, () => writer.add(line)).filter((added) => added);
  assertEquals(taken.length, 3);
  writer.end("last");
  assert(!writer.add("too late"));
  target.opened.resolve();
  await writer.drained;
  assertEquals(target.text, `${line}\nlast\n`);
});

Deno.test("a target that breaks ends its writer, and nothing else", async () => {
  const broken = new LineWriter({ write: () => Promise.reject(new Deno.errors.BrokenPipe()) }, 1_000);
  assert(broken.add("one"));
  await broken.broken;
  assert(!broken.add("two"));
});

Deno.test("each event of a service is a line, from the disks that are there to the end", async () => {
  await using rig = await Rig.start();
  const target = new Collector();
  target.opened.resolve();
  const guest = rig.host.guests[0]!;
  const disk = await guest.addDisk({ image: `raw:${rig.image()}` });
  const names = (): string[] => target.text.split("\n").filter(Boolean).map((line) => JSON.parse(line).event);
  const until = async (name: string): Promise<void> => {
    while (!names().includes(name)) await new Promise((resolve) => setTimeout(resolve, 5));
  };
  {
    await using _lines = writeEvents(rig.service, target);
    await until("connected");
    await disk.detach();
    await until("removed");
  }
  assertEquals(names().filter((name) => name !== "state"), [
    "added",
    "connected",
    "disconnected",
    "removed",
    "end",
  ]);
});
