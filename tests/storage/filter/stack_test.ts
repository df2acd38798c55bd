/**
 * A disk behind filters is the disk in everything that the filters do not change: what it has goes through the stack, and
 * what it lacks stays absent.
 */

import { assertEquals, assertThrows } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import type { Disk, DiskAttachment, DiskProperties } from "../../../lib/storage/disk.ts";
import { filesOf, writesImage } from "../../../lib/storage/disk.ts";
import { chooseFilters } from "../../../lib/storage/filter/spec.ts";
import { filterDisk } from "../../../lib/storage/filter/stack.ts";

const IDLE = ["throttle", "delay", "error,rate=0"];

/** A disk that has all that a disk can have. */
function fullDisk(): Disk & { readonly calls: string[] } {
  const calls: string[] = [];
  let sectors = 8;
  return {
    calls,
    get properties(): DiskProperties {
      const sizes = { sectors, logicalSectorBytes: 512, physicalSectorBytes: 4096 };
      const discard = { granularityBytes: 512, alignmentBytes: 0, secure: true };
      return { ...sizes, readOnly: false, discard, cache: "none", copyOnly: "it has its own memory", mostChannels: 3 };
    },
    description: "a disk",
    image: { path: "/a.img", identity: { device: 1, inode: 2 } },
    files: [{ path: "/a.img", writable: true }, { path: "/base.img", writable: false }],
    failed: new Promise<string>(() => {}),
    trouble: "it is slow",
    watchTrouble: () => ({ [Symbol.dispose]: () => void calls.push("unwatched") }),
    grow: (sizeBytes?: number) => Promise.resolve(void calls.push(`grow ${sizeBytes}`, `${sectors *= 2}`)),
    waitsFor: ({ direct }: { direct: boolean }) => `device ${direct}`,
    attachment: (lane: number) => Promise.resolve({ module: "file:///disk.ts", lane }),
    reattach: (attachment: DiskAttachment, lane: number) => lane > 8 ? undefined : { ...attachment, lane },
    withoutUring: (lane: number) => Promise.resolve({ module: "file:///other.ts", lane }),
    [Symbol.asyncDispose]: () => Promise.resolve(void calls.push("closed")),
  };
}

/** The modules of a disk, from the guest on, without their folders. */
function modulesOf({ module, inner }: DiskAttachment): string[] {
  return [module.replace(/.*\//, ""), ...(inner === undefined ? [] : modulesOf(inner as DiskAttachment))];
}

/** The reactors that an attachment is for. */
function lanesOf({ lane, inner }: DiskAttachment): unknown[] {
  return [...(lane === undefined ? [] : [lane]), ...(inner === undefined ? [] : lanesOf(inner as DiskAttachment))];
}

Deno.test("what a disk has goes through filters that change nothing", async () => {
  const disk = fullDisk();
  const filtered = filterDisk(disk, await chooseFilters(IDLE));
  const { properties, image, files, failed, trouble } = filtered;
  assertEquals([properties, image, files, trouble], [disk.properties, disk.image, disk.files, disk.trouble]);
  assertEquals([failed === disk.failed, writesImage(filtered)], [true, true]);
  assertEquals(filtered.waitsFor!({ direct: true, asynchronous: true }), "device true");
  assertEquals(modulesOf(await filtered.attachment(7)), ["throttle.ts", "delay.ts", "error.ts", "disk.ts"]);
  const moved = filtered.reattach!(await filtered.attachment(7), 8)!;
  assertEquals(modulesOf(moved), ["throttle.ts", "delay.ts", "error.ts", "disk.ts"]);
  assertEquals([lanesOf(moved), filtered.reattach!(moved, 9)], [[8], undefined]);
  const refusal = { reason: "it is off", remedy: "turn it on" };
  assertEquals(modulesOf(await filtered.withoutUring!(7, refusal)).at(-1), "other.ts");
  filtered.watchTrouble!(() => {})[Symbol.dispose]();
  await filtered.grow!(8192);
  await filtered[Symbol.asyncDispose]();
  assertEquals([disk.calls, filtered.properties.sectors], [["unwatched", "grow 8192", "16", "closed"], 16]);
});

Deno.test("what a disk lacks is absent behind filters, and without filters it is the disk itself", async () => {
  const { properties, description, attachment, [Symbol.asyncDispose]: dispose } = fullDisk();
  const bare: Disk = { properties, description, attachment, [Symbol.asyncDispose]: dispose };
  const { image, files, failed, trouble, watchTrouble, grow, waitsFor, reattach, withoutUring, imageReadOnly } =
    filterDisk(
      bare,
      await chooseFilters(IDLE),
    );
  const optional = [image, files, failed, trouble, watchTrouble, grow, waitsFor, reattach, withoutUring, imageReadOnly];
  assertEquals(new Set(optional), new Set([undefined]));
  assertEquals(filterDisk(bare, []), bare);
});

Deno.test("filters that keep writes change what is said of the image, and no more than that", async () => {
  for (const [name, readOnly] of [["cow", false], ["readonly", true]] as const) {
    const filtered = filterDisk(fullDisk(), await chooseFilters([...IDLE, name]));
    const { properties: { readOnly: seen, copyOnly, cache }, image } = filtered;
    assertEquals([seen, copyOnly, cache, image!.path], [readOnly, "it has its own memory", "none", "/a.img"]);
    assertEquals([writesImage(filtered), filesOf(filtered).map(({ writable }) => writable)], [false, [false, false]]);
  }
});

Deno.test("a filter that opens a file is refused where no device would close it", async () => {
  const filters = await chooseFilters([...IDLE, "log,file=a.trace"]);
  assertThrows(() => filterDisk(fullDisk(), filters), XenblkError, "Cannot put filter log before a disk");
});
