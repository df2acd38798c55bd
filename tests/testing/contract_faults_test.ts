/**
 * The contract's suite finds disks that break it: each of a list of faults fails the rule that is about it, and a disk
 * without a fault passes.
 */

import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { XenblkError } from "../../lib/errors.ts";
import type { Disk, DiskProperties } from "../../lib/storage/disk.ts";
import { diskContract, type DiskTraits } from "../../testing.ts";
import { brokenDisk, type ChannelFault } from "./broken_disk.ts";

const SIZE_BYTES = 1 << 20;

/** Runs the suite, and returns the names of the rules that the disk breaks. */
async function broken(
  options: { fault?: ChannelFault; changes?: Partial<Disk>; traits?: DiskTraits },
): Promise<string[]> {
  const failed: string[] = [];
  const tests: (() => Promise<void>)[] = [];
  diskContract({
    name: "it",
    sizeBytes: SIZE_BYTES,
    discards: true,
    ...options.traits,
    open: async ({ readOnly }) => ({ disk: await brokenDisk(SIZE_BYTES, { ...options, readOnly }) }),
    test: (name, run) => tests.push(() => run().catch(() => void failed.push(name))),
  });
  for (const run of tests) await run();
  return failed;
}

const FAULTS: Readonly<Record<ChannelFault, RegExp>> = {
  "loses a write": /random operations/,
  "tears a write": /random operations/,
  "reads into its neighbour": /random operations/,
  "answers twice": /completes once/,
  "fails now and then": /completes once/,
  "starts at once": /before submit/,
  "takes any tag": /a tag that is in flight/,
  "closes while busy": /closing while busy/,
  "is always due": /idle channel is not due/,
  "has no end": /beyond the end/,
  "writes although read-only": /read-only disk/,
  "discards too much": /a discard touches/,
  "keeps writes to itself": /another has written/,
};

Deno.test("the contract's suite passes a disk that keeps it", async () => {
  assertEquals(await broken({}), []);
});

for (const [fault, rule] of Object.entries(FAULTS)) {
  Deno.test(`the contract's suite finds a channel that ${fault}`, async () => {
    const failed = await broken({ fault: fault as ChannelFault });
    assert(failed.some((name) => rule.test(name)), `failed: ${failed.join("; ")}`);
  });
}

Deno.test("the contract's suite finds wrong properties, descriptions, attachments and ends", async () => {
  const properties: DiskProperties = {
    sectors: SIZE_BYTES / 512,
    logicalSectorBytes: 512,
    physicalSectorBytes: 4096,
    readOnly: false,
  };
  const changes: readonly Partial<Disk>[] = [
    { properties: { ...properties, logicalSectorBytes: 500 } },
    { properties: { ...properties, physicalSectorBytes: 256 } },
    { properties: { ...properties, sectors: 7 } },
    { properties: { ...properties, mostChannels: 0 } },
    { description: "" },
    { attachment: () => Promise.resolve({ module: "disk.ts" }) },
    { attachment: () => Promise.resolve({ module: import.meta.url, callback: () => {} }) },
    { grow: () => Promise.resolve() },
    { [Symbol.asyncDispose]: () => Promise.resolve() },
  ];
  const counts = await Promise.all(changes.map(async (change) => (await broken({ changes: change })).length));
  assertEquals(counts.map((count) => count > 0), changes.map(() => true));
});

Deno.test("traits that the disk does not have are found, and those that nobody named", async () => {
  const found = async (traits: DiskTraits): Promise<string> => (await broken({ traits })).join("; ");
  assertMatch(await found({ sharesChannels: false }), /it has the traits that the contract names/);
  assertMatch(await found({ discards: false }), /it has the traits .*; it: a discard that is not offered is refused/);
  assertMatch(await found({ cutsPower: true }), /it has the traits .*; it: what was flushed survives/);
  assertMatch(await found({ grows: true }), /it grows, and the new end can be used/);
});

Deno.test("the contract is not for disks that its tests do not fit", () => {
  const open = (): never => {
    throw new Error("not opened");
  };
  for (const sizeBytes of [0, 4096, SIZE_BYTES + 512, NaN]) {
    assertThrows(() => diskContract({ name: "small", sizeBytes, open }), XenblkError, "Cannot test small: its size is");
  }
});
