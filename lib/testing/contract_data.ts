/**
 * The rules of the disk contract about data: reads return what was written, through any channel, whatever the vectors
 * look like; discards free what they name and nothing else; what was flushed survives a power failure.
 */

import { Random } from "../guest/random.ts";
import type { ChannelDriver } from "./channel_driver.ts";
import type { ContractFacts, ContractRule } from "./contract_protocol.ts";
import type { StageRig } from "./contract_stage.ts";
import { expect, expectBytes, expectDone, expectEqual } from "./expect.ts";

/** See {@linkcode ContractRule}. */
export const DATA_RULES: readonly ContractRule[] = [
  { name: "a fresh disk reads as zeroes", needs: "keepsData", run: beginsWithZeroes },
  {
    name: "random operations at depth 32 with scattered vectors read back what was written",
    needs: "keepsData",
    run: async (rig) => {
      using driver = await rig.driver();
      await new Exercise(driver, rig, 1).run(1500);
    },
  },
  {
    name: "buffers that the channel was not opened with serve as well",
    needs: "keepsData",
    run: async (rig) => {
      using driver = await rig.driver({ announce: false });
      await new Exercise(driver, rig, 2).run(200);
    },
  },
  { name: "a channel sees what another has written", needs: "sharesChannels", run: sharesWrites },
  { name: "a later channel sees what a closed one has written", needs: "keepsData", run: keepsWrites },
  { name: "a discard touches what it names and nothing else", needs: "discards", run: discards },
  {
    name: "what was flushed survives a power failure, the rest whole, in part or not",
    needs: "cutsPower",
    run: survives,
  },
];

const TAGS = 32;
const BUFFER_BYTES = 64 << 10;
const MOST_PIECES = 11;
/** Fills what no operation may touch. */
const UNTOUCHED = 0xa5;

async function beginsWithZeroes(rig: StageRig): Promise<void> {
  using driver = await rig.driver();
  driver.buffer(0).fill(UNTOUCHED);
  for (let at = 0; at < rig.sizeBytes; at += BUFFER_BYTES) {
    const lengthBytes = Math.min(BUFFER_BYTES, rig.sizeBytes - at);
    expectDone(await driver.readAt(at, lengthBytes), "a read");
    const wrong = driver.buffer(0).subarray(0, lengthBytes).findIndex((byte) => byte !== 0);
    expectEqual(wrong, -1, `the first byte that is not 0 in what was read at ${at}`);
  }
}

async function sharesWrites(rig: StageRig): Promise<void> {
  const unit = rig.unitBytes;
  using one = await rig.driver({ depth: 4 });
  using other = await rig.driver({ depth: 4 });
  for (let round = 1; round <= 8; round++) {
    one.buffer(0).fill(round);
    one.write(0, 0, [unit]);
    other.buffer(1).fill(round + 100);
    other.write(1, unit, [unit]);
    expectDone((await one.finished()).get(0), "a write of one channel");
    expectDone((await other.finished()).get(1), "a write of the other");
    for (const driver of [one, other]) {
      expectDone(await driver.readAt(0, 2 * unit), "a read");
      const both = driver.buffer(0);
      expectEqual(both[unit - 1]!, round, "what one channel wrote");
      expectEqual(both[2 * unit - 1]!, round + 100, "what the other wrote");
    }
  }
}

async function keepsWrites(rig: StageRig): Promise<void> {
  for (let round = 1; round <= 3; round++) {
    using driver = await rig.driver({ depth: 4 });
    expectDone(await driver.readAt(0, rig.unitBytes), "a read");
    expectEqual(driver.buffer(0)[0]!, round - 1, "what the channel before has written");
    driver.buffer(0).fill(round);
    expectDone(await driver.writeAt(0, rig.unitBytes), "a write");
  }
}

/** The middle half of what was written is discarded. */
async function discards(rig: StageRig, { discardsToZeroes }: ContractFacts): Promise<void> {
  const { granularityBytes: granule, alignmentBytes: alignment } = rig.properties.discard!;
  const quarter = BUFFER_BYTES / 4;
  expectEqual(quarter % granule, 0, `what is left of ${quarter} bytes by the discard granularity of ${granule} bytes`);
  using driver = await rig.driver();
  const buffer = driver.buffer(0).fill(0x5a);
  expectDone(await driver.writeAt(alignment, BUFFER_BYTES), "a write");
  expectDone(await driver.discardAt(alignment + quarter, 2 * quarter), "a discard that the properties offer");
  expectDone(await driver.readAt(alignment, BUFFER_BYTES), "a read");
  const before = new Uint8Array(quarter).fill(0x5a);
  expectBytes(buffer.subarray(0, quarter), before, "before the discard");
  expectBytes(buffer.subarray(3 * quarter, 4 * quarter), before, "behind the discard");
  const discarded = buffer.subarray(quarter, 3 * quarter);
  if (discardsToZeroes) expect(discarded.every((byte) => byte === 0), "discarded bytes read as zeroes");
}

/** Each unit holds the number of the last write to it; an unflushed one may hold the flushed one instead. */
async function survives(rig: StageRig): Promise<void> {
  const { unitBytes: unit } = rig;
  const random = new Random(3);
  const units = 64;
  const flushed = new Uint8Array(units);
  const allowed = Array.from({ length: units }, () => new Set([0]));
  for (let round = 1; round <= 10; round++) {
    {
      using driver = await rig.driver();
      for (let write = 1; write <= 8; write++) {
        const at = random.below(units - 3);
        const value = 8 * round + write;
        driver.buffer(0).fill(value);
        expectDone(await driver.writeAt(at * unit, 3 * unit), "a write");
        for (let i = at; i < at + 3; i++) allowed[i]!.add(flushed[i] = value);
        if (write !== 5) continue;
        expectDone(await driver.flushNow(), "a flush");
        flushed.forEach((value, i) => allowed[i] = new Set([value]));
      }
    }
    await rig.cutPower();
    using driver = await rig.driver();
    for (let i = 0; i < units; i++) {
      expectDone(await driver.readAt(i * unit, unit), "a read after the power failure");
      const [value] = driver.buffer(0);
      const may = [...allowed[i]!].join(" or ");
      expect(allowed[i]!.has(value!), `sector ${i} holds ${may} after power failure ${round}: it holds ${value}`);
      flushed[i] = value!;
      allowed[i] = new Set([value!]);
    }
  }
}

/** An operation that was started, to be checked when it completes. */
interface Started {
  readonly reading: boolean;
  readonly offsetBytes: number;
  readonly lengths: readonly number[];
  readonly gapBytes: number;
}

/** Random reads and writes on disjoint parts of the disk, 32 at a time, each compared with a model. */
class Exercise {
  readonly #driver: ChannelDriver;
  readonly #unit: number;
  readonly #model: Uint8Array;
  readonly #random: Random;
  readonly #started: Started[] = [];

  constructor(driver: ChannelDriver, { unitBytes, sizeBytes }: StageRig, seed: number) {
    this.#driver = driver;
    this.#unit = unitBytes;
    this.#model = new Uint8Array(sizeBytes);
    this.#random = new Random(seed);
  }

  async run(operations: number): Promise<void> {
    for (let tag = 0; tag < TAGS; tag++) this.#start(tag);
    for (let left = operations - TAGS; this.#driver.channel.inFlight > 0;) {
      for (const [tag, result] of await this.#driver.reaped()) {
        this.#check(tag, result);
        if (left-- > 0) this.#start(tag);
      }
    }
  }

  #start(tag: number): void {
    const [random, unit] = [this.#random, this.#unit];
    const lengths = this.#cut();
    const units = lengths.reduce((sum, length) => sum + length, 0) / unit;
    const partUnits = this.#model.length / TAGS / unit;
    const offsetBytes = (tag * partUnits + random.below(partUnits - units + 1)) * unit;
    const reading = random.chance(0.5);
    const gapBytes = random.chance(0.5) ? 0 : unit;
    this.#started[tag] = { reading, offsetBytes, lengths, gapBytes };
    const buffer = this.#driver.buffer(tag);
    if (reading) {
      buffer.fill(UNTOUCHED);
      this.#driver.read(tag, offsetBytes, lengths, gapBytes);
    } else {
      const words = new Uint32Array(buffer.buffer, buffer.byteOffset, (units + MOST_PIECES) * unit / 4);
      for (let i = 0; i < words.length; i++) words[i] = random.next();
      this.#driver.write(tag, offsetBytes, lengths, gapBytes);
    }
  }

  #check(tag: number, result: number): void {
    const { reading, offsetBytes, lengths, gapBytes } = this.#started[tag]!;
    const buffer = this.#driver.buffer(tag);
    expectDone(result, reading ? "a read" : "a write");
    let from = 0;
    let at = offsetBytes;
    for (const length of lengths) {
      const piece = buffer.subarray(from, from + length);
      if (!reading) this.#model.set(piece, at);
      else expectBytes(piece, this.#model.subarray(at, at + length), `what was read at ${at}`);
      const gap = buffer.subarray(from + length, from + length + gapBytes);
      if (reading) expect(gap.every((byte) => byte === UNTOUCHED), "a read leaves memory between its vectors alone");
      from += length + gapBytes;
      at += length;
    }
  }

  /** The lengths of 1 to 11 pieces, of whole units, that fit the buffer with gaps between them. */
  #cut(): number[] {
    const most = Math.min(40, BUFFER_BYTES / this.#unit - MOST_PIECES, this.#model.length / TAGS / this.#unit);
    const lengths: number[] = [];
    for (let left = 1 + this.#random.below(most); left > 0;) {
      const piece = lengths.length === MOST_PIECES - 1 ? left : Math.min(left, 1 + this.#random.below(8));
      lengths.push(piece * this.#unit);
      left -= piece;
    }
    return lengths;
  }
}
