/**
 * The rules of the disk contract about the disk itself: its properties and description, its attachments, growing and
 * closing.
 */

import { expect, expectDone, expectEqual, expectRejects } from "./expect.ts";
import type { ContractFacts, ContractRule } from "./contract_protocol.ts";
import type { StageRig } from "./contract_stage.ts";

/** See {@linkcode ContractRule}. */
export const DISK_RULES: readonly ContractRule[] = [
  { name: "the properties make sense, and the description says what it is", run: describesItself },
  { name: "it has the traits that the contract names, and no others", run: hasTraits },
  { name: "attachments can be posted to another thread", run: postsAttachments },
  { name: "channels come and go", run: channelsComeAndGo },
  { name: "it grows, and the new end can be used; it does not shrink", needs: "grows", run: grows },
  { name: "it stays as large as it is", lacks: "grows", run: staysAsLarge },
  { name: "closing it twice is closing it once, and then it has no attachments", run: closes },
];

const PAGE_BYTES = 4096;

function isPowerOfTwo(bytes: number): boolean {
  return bytes > 0 && Number.isInteger(Math.log2(bytes));
}

function describesItself({ disk, properties }: StageRig, { sizeBytes }: ContractFacts): Promise<void> {
  const { sectors, logicalSectorBytes: logical, physicalSectorBytes: physical, discard, mostChannels = 1 } = properties;
  expectEqual(sectors, sizeBytes / 512, "sectors of 512 bytes");
  expectEqual(properties.readOnly, false, "readOnly of a disk that was opened for writing");
  expect(isPowerOfTwo(logical) && logical >= 512 && logical <= PAGE_BYTES, `${logical} is a size of logical sectors`);
  expect(isPowerOfTwo(physical) && physical >= logical, `${physical} is a size of physical sectors`);
  expect(Number.isInteger(mostChannels) && mostChannels > 0, `${mostChannels} is a number of channels`);
  if (discard !== undefined) {
    const { granularityBytes: granule, alignmentBytes: alignment } = discard;
    expect(granule > 0 && granule % 512 === 0, `a discard granule of ${granule} bytes is a multiple of 512`);
    expect(alignment >= 0 && alignment % 512 === 0, `a discard alignment of ${alignment} bytes is a multiple of 512`);
  }
  expect(disk.description !== "" && !/\n/.test(disk.description), "the description is one line");
  return Promise.resolve();
}

/** A trait that nobody names would not be tested. */
function hasTraits(rig: StageRig, { sharesChannels, discards, cutsPower }: ContractFacts): Promise<void> {
  expectEqual(rig.takes(2), sharesChannels, "sharesChannels: it can have several channels at a time");
  expectEqual(rig.properties.discard !== undefined, discards, "discards: its properties offer discards");
  expectEqual(rig.canCutPower, cutsPower, "cutsPower: its stage can cut the power");
  return Promise.resolve();
}

async function postsAttachments({ disk }: StageRig): Promise<void> {
  const attachment = await disk.attachment(0);
  expect(URL.canParse(attachment.module), `the module of an attachment is an absolute URL: ${attachment.module}`);
  structuredClone(attachment);
}

async function channelsComeAndGo(rig: StageRig): Promise<void> {
  const atATime = rig.takes(4) ? 4 : 1;
  for (let round = 0; round < 5; round++) {
    using undo = new DisposableStack();
    const drivers = [];
    for (let i = 0; i < atATime; i++) drivers.push(undo.use(await rig.driver({ depth: 2 })));
    for (const [i, driver] of drivers.entries()) driver.write(0, i * rig.unitBytes, [rig.unitBytes]);
    for (const driver of drivers) expectDone((await driver.finished()).get(0), "a write");
  }
}

async function grows(rig: StageRig, { keepsData }: ContractFacts): Promise<void> {
  const { disk, sizeBytes, unitBytes } = rig;
  if (disk.grow === undefined) throw new Error("it has no method grow");
  const toBytes = 2 * sizeBytes;
  await disk.grow(toBytes);
  expectEqual(rig.sizeBytes, toBytes, "bytes after it has grown");
  await disk.grow();
  expectEqual(rig.sizeBytes, toBytes, "bytes after a second look");
  await expectRejects(disk.grow(sizeBytes), "making it smaller");
  expectEqual(rig.sizeBytes, toBytes, "bytes after it was not made smaller");
  using driver = await rig.driver();
  driver.buffer(0).fill(0x77);
  expectDone(await driver.writeAt(toBytes - unitBytes, unitBytes), "a write at the new end");
  driver.buffer(0).fill(0);
  expectDone(await driver.readAt(toBytes - unitBytes, unitBytes), "a read at the new end");
  if (keepsData) expectEqual(driver.buffer(0)[unitBytes - 1]!, 0x77, "the last byte");
}

async function staysAsLarge({ disk, sizeBytes, properties }: StageRig): Promise<void> {
  if (disk.grow !== undefined) await expectRejects(disk.grow(2 * sizeBytes), "making it larger");
  expectEqual(disk.properties.sectors, properties.sectors, "sectors");
}

async function closes(rig: StageRig): Promise<void> {
  {
    using driver = await rig.driver();
    expectDone(await driver.flushNow(), "a flush");
  }
  await rig.disk[Symbol.asyncDispose]();
  await rig.disk[Symbol.asyncDispose]();
  await expectRejects(Promise.resolve(rig.disk.attachment(0)), "an attachment of a closed disk");
}
