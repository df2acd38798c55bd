/**
 * The rules of the disk contract about operations, whatever their data: each completes once, nothing starts before
 * submit, wrong tags are refused, a completion wakes the thread.
 */

import { EOPNOTSUPP } from "../errno.ts";
import { PATIENCE_MS } from "./channel_driver.ts";
import type { StageRig } from "./contract_stage.ts";
import { expect, expectDone, expectEqual, expectFailed, expectThrows } from "./expect.ts";

/** One rule, which is one test. */
export interface ContractRule {
  /** What holds, for the test's name. */
  readonly name: string;
  /** The kind of disk has this trait. Absent: the rule is for every kind. */
  readonly needs?: DiskTrait;
  /** The kind of disk does not have this one. */
  readonly lacks?: DiskTrait;
  /** The disk is opened for reading only. */
  readonly readOnly?: boolean;
  run(rig: StageRig, contract: ContractFacts): Promise<void>;
}

/** What a kind of disk has, or not. */
export interface DiskTraits {
  /** Reads return what was written. False for a disk that discards it. Default true. */
  readonly keepsData?: boolean;
  /** The kind of disk can be opened for reading only. Default true. */
  readonly opensReadOnly?: boolean;
  /** Several channels can be open at a time. Default true. */
  readonly sharesChannels?: boolean;
  /** Its properties offer discards, in units of at most 16 KiB. Default false. */
  readonly discards?: boolean;
  /** Discarded bytes read as zeroes; else they may hold anything. Default false. */
  readonly discardsToZeroes?: boolean;
  /** It can be made larger. Default false. */
  readonly grows?: boolean;
  /** Its stage can cut the power: see {@linkcode ContractStage.cutPower}. Default false. */
  readonly cutsPower?: boolean;
}

/** The name of one. */
export type DiskTrait = keyof DiskTraits;

/** What a rule may know of the kind of disk. */
export interface ContractFacts extends Required<DiskTraits> {
  readonly sizeBytes: number;
}

const DEPTH = 32;

/** See {@linkcode ContractRule}. */
export const PROTOCOL_RULES: readonly ContractRule[] = [
  { name: "every operation completes once, flushes among them", run: completesOnce },
  { name: "nothing starts before submit", run: startsAtSubmit },
  { name: "a tag that is in flight or too large, and closing while busy, are refused", run: refusesMisuse },
  { name: "a completion wakes the thread that sleeps, and an idle channel is not due", run: wakes },
  { name: "a channel of one operation at a time serves", run: servesDepthOne },
  {
    name: "writes to a read-only disk fail, reads and flushes do not",
    needs: "opensReadOnly",
    readOnly: true,
    run: refusesWrites,
  },
  { name: "a discard that is not offered is refused", lacks: "discards", run: refusesDiscards },
  {
    name: "a secure discard is carried out where it is offered, and refused where not",
    needs: "discards",
    run: refusesSecureDiscards,
  },
  { name: "a read beyond the end fails, and the next one does not", needs: "keepsData", run: endsAtTheEnd },
];

async function completesOnce(rig: StageRig): Promise<void> {
  using driver = await rig.driver();
  const { channel } = driver;
  const unit = rig.unitBytes;
  const seen = new Uint32Array(DEPTH);
  for (let round = 1; round <= 10; round++) {
    for (let tag = 0; tag < DEPTH; tag++) {
      if (tag % 4 === 0) channel.flush(tag);
      else driver.write(tag, tag * unit, [unit]);
    }
    expectEqual(channel.inFlight, DEPTH, "operations in flight");
    for (let left = DEPTH; left > 0;) {
      for (const [tag, result] of await driver.reaped()) {
        expectDone(result, tag % 4 === 0 ? "a flush" : "a write");
        expectEqual(++seen[tag]!, round, `completions of tag ${tag}`);
        left--;
      }
      expectEqual(channel.inFlight, left, "operations in flight");
    }
  }
  expectEqual(channel.reap(), 0, "completions without an operation");
}

async function startsAtSubmit(rig: StageRig): Promise<void> {
  using driver = await rig.driver();
  const { channel } = driver;
  expectEqual(channel.inFlight, 0, "operations in flight in a new channel");
  channel.submit();
  expectEqual(channel.reap(), 0, "completions of a new channel");
  driver.write(0, 0, [rig.unitBytes]);
  expectEqual(channel.reap(), 0, "completions before submit");
  expectEqual(channel.inFlight, 1, "operations in flight");
  expectDone((await driver.finished()).get(0), "the write");
}

async function refusesMisuse(rig: StageRig): Promise<void> {
  using driver = await rig.driver();
  const { channel } = driver;
  channel.flush(3);
  expectThrows(() => channel.flush(3), RangeError, "an operation with a tag that is in flight");
  expectThrows(() => channel.flush(DEPTH), RangeError, "an operation with a tag as large as the depth");
  expectThrows(() => channel[Symbol.dispose](), Error, "closing while an operation is in flight");
  expectDone((await driver.finished()).get(3), "the flush that the channel was busy with");
}

/** Sleeps without a time limit worth mentioning: only a completion, or the channel's own time, ends that. */
async function wakes(rig: StageRig): Promise<void> {
  using driver = await rig.driver();
  for (let round = 0; round < 5; round++) {
    driver.read(0, 0, [rig.unitBytes]);
    expect(driver.channel.isResting !== true, "a channel with an operation does not rest");
    driver.channel.submit();
    let results = driver.reapNow();
    for (const end = performance.now() + PATIENCE_MS; results.size === 0; results = driver.reapNow()) {
      expect(performance.now() < end, "a completion wakes the thread");
      driver.sleep(PATIENCE_MS);
    }
    expectDone(results.get(0), "the read");
  }
  const { dueMs = Infinity, isResting } = driver.channel;
  const nowMs = rig.place.platform.now();
  expect(dueMs > nowMs, `an idle channel is due in the future or never: it is due at ${dueMs}, and it is ${nowMs}`);
  expect(isResting !== true || dueMs === Infinity, `a channel that rests is due at ${dueMs}`);
}

async function servesDepthOne(rig: StageRig): Promise<void> {
  using driver = await rig.driver({ depth: 1 });
  for (let round = 0; round < 4; round++) {
    expectDone(await driver.writeAt(round * rig.unitBytes, rig.unitBytes), "a write");
    expectDone(await driver.readAt(round * rig.unitBytes, rig.unitBytes), "a read");
    expectDone(await driver.flushNow(), "a flush");
  }
}

async function refusesWrites(rig: StageRig): Promise<void> {
  expect(rig.properties.readOnly, "the properties of a disk that was opened read-only say so");
  using driver = await rig.driver();
  driver.buffer(0).fill(1);
  expectFailed(await driver.writeAt(0, rig.unitBytes), "a write to a read-only disk");
  expectFailed(await driver.discardAt(0, rig.unitBytes), "a discard on a read-only disk");
  expectDone(await driver.readAt(0, rig.unitBytes), "a read");
  expectDone(await driver.flushNow(), "a flush");
}

async function refusesDiscards(rig: StageRig): Promise<void> {
  using driver = await rig.driver();
  for (const secure of [false, true]) {
    expectEqual(await driver.discardAt(0, rig.unitBytes, secure), -EOPNOTSUPP, "the result of a discard");
  }
}

async function refusesSecureDiscards(rig: StageRig): Promise<void> {
  const { granularityBytes, secure } = rig.properties.discard!;
  using driver = await rig.driver();
  const result = await driver.discardAt(0, granularityBytes, true);
  expectEqual(result, secure ? 0 : -EOPNOTSUPP, "the result of a secure discard");
}

async function endsAtTheEnd(rig: StageRig): Promise<void> {
  using driver = await rig.driver();
  const { unitBytes, sizeBytes } = rig;
  expectFailed(await driver.readAt(sizeBytes - unitBytes, 2 * unitBytes), "a read across the end");
  expectFailed(await driver.readAt(sizeBytes, unitBytes), "a read behind the end");
  expectDone(await driver.readAt(sizeBytes - unitBytes, unitBytes), "a read of the last sector");
}
