/**
 * The trace format: what was written is read again, in order of time; a trace that is damaged, cut, of another version or
 * made to harm yields an error that names the byte, or a counted skip.
 */

import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import fc from "fast-check";
import { XenblkError } from "../../lib/errors.ts";
import { BLOCK_BYTES, encodeSession, RECORDS_PER_BLOCK } from "../../lib/trace/format.ts";
import { OrderedTrace } from "../../lib/trace/order.ts";
import { openTrace, TraceReader } from "../../lib/trace/reader.ts";
import { joined, readAll, readInOrder, record, recordBlock, SESSION, sourceOf, traceBytes } from "./traces.ts";

const wide = fc.nat({ max: 2 ** 48 - 1 });
const RECORD = fc.record({
  timeUs: wide,
  operation: fc.nat({ max: 3 }),
  secure: fc.boolean(),
  ring: fc.nat({ max: 63 }),
  sector: wide,
  sectorCount: wide,
  errno: fc.nat({ max: 4095 }),
  durationUs: fc.nat({ max: 2 ** 32 - 1 }),
});

Deno.test("any records are read as they were written, and nothing is said to be wrong", () => {
  fc.assert(fc.property(fc.array(RECORD, { maxLength: 400 }), (records) => {
    const found = readAll(traceBytes(records));
    assertEquals(found.records, records);
    assertEquals(found.sessions, [SESSION]);
    assertEquals(found.faults, { lost: 0, damagedBlocks: 0, unknownRecords: 0, cutBytes: 0, first: undefined });
  }));
});

Deno.test("records come in order of time, those of one time as they were written", () => {
  fc.assert(fc.property(fc.array(RECORD, { maxLength: 300 }), (records) => {
    const sorted = records.toSorted((a, b) => a.timeUs - b.timeUs);
    assertEquals(readInOrder(traceBytes(records)), { records: sorted, late: 0 });
  }));
});

Deno.test("what the window cannot sort follows, is counted, and never goes back in time", () => {
  const times = [50, 60, 70, 80, 10, 90];
  const found = readInOrder(traceBytes(times.map((timeUs) => record({ timeUs, durationUs: timeUs }))), 3);
  assertEquals(found.records.map(({ durationUs }) => durationUs), [50, 60, 10, 70, 80, 90]);
  assertEquals(found.records.map(({ timeUs }) => timeUs), [50, 60, 60, 70, 80, 90]);
  assertEquals(found.late, 1);
});

Deno.test("sessions follow one another without the time between them", () => {
  const later = { ...SESSION, startMs: SESSION.startMs + 1e9 };
  const bytes = joined([
    traceBytes([record({ timeUs: 700 }), record({ timeUs: 300 })]),
    traceBytes([record({ timeUs: 20 }), record({ timeUs: 5 })], later),
  ]);
  assertEquals(readInOrder(bytes).records.map(({ timeUs }) => timeUs), [300, 700, 705, 720]);
  assertEquals(readAll(bytes).sessions, [SESSION, later]);
});

Deno.test("a trace that does not begin like one is refused: the message names the byte and the reason", () => {
  const version2 = encodeSession(SESSION);
  version2[4] = 2;
  const cases: readonly (readonly [Uint8Array, string])[] = [
    [new Uint8Array(0), "Cannot read trace x.trace: it is empty"],
    [traceBytes([]).subarray(0, 100), "it ends at byte 100, within its first block"],
    [new Uint8Array(BLOCK_BYTES), "the block at byte 0: it does not begin with xbtr"],
    [version2, "the block at byte 0: it is of version 2 of the format, and this program reads version 1"],
    [recordBlock([record()]), "it begins with records, not with a session"],
    [encodeSession({ ...SESSION, sectors: -1 }), "the block at byte 0: it describes no session"],
    [encodeSession({ ...SESSION, logicalSectorBytes: 100 }), "the block at byte 0: it describes no session"],
    [encodeSession({ ...SESSION, startMs: 1e300 }), "the block at byte 0: it describes no session"],
  ];
  for (const [bytes, message] of cases) {
    const error = assertThrows(() => readAll(bytes), XenblkError);
    assertStringIncludes(error.message, message);
  }
});

Deno.test("damaged blocks are skipped and counted, and the rest is read", () => {
  const good = recordBlock([record({ timeUs: 1 })]);
  const flipped = good.slice();
  flipped[200]! ^= 1;
  const empty = joined(Array.from({ length: 2500 }, () => traceBytes([])));
  const sessions = new OrderedTrace(new TraceReader(sourceOf(empty), "x.trace"));
  assertEquals([sessions.next(), sessions.ended], [undefined, false], "sessions without records are no longer either");
  assertEquals([sessions.next(), sessions.next(), sessions.ended], [undefined, undefined, true]);

  const strange = recordBlock([record({ operation: 9 }), record({ timeUs: 2 })], 7);
  const bytes = joined([
    encodeSession(SESSION),
    flipped,
    good,
    new Uint8Array(BLOCK_BYTES),
    strange,
    good.slice(0, 50),
  ]);
  const { records, faults } = readAll(bytes);
  assertEquals(records.map(({ timeUs }) => timeUs), [1, 2]);
  assertEquals(faults, {
    lost: 7,
    damagedBlocks: 2,
    unknownRecords: 1,
    cutBytes: 50,
    first: "the block at byte 4096: its checksum is wrong",
  });
});

Deno.test("no bytes at all make the reader fail in another way, or find more than the bytes hold", () => {
  const garbage = fc.uint8Array({ maxLength: 3 * BLOCK_BYTES });
  fc.assert(fc.property(garbage, fc.nat({ max: 2 * BLOCK_BYTES }), fc.boolean(), (bytes, at, sealed) => {
    const trace = traceBytes(Array.from({ length: 200 }, () => record()));
    trace.set(bytes.subarray(0, trace.length - at), at);
    try {
      const { records } = readAll(sealed ? joined([traceBytes([]), bytes]) : trace);
      assertEquals(records.length <= 200, true);
    } catch (error) {
      if (!(error instanceof XenblkError)) throw error;
    }
  }));
});

Deno.test("a long damaged part keeps a reader no longer than a short one, and what follows it is found", () => {
  const hole = new Uint8Array(2500 * BLOCK_BYTES);
  const bytes = joined([traceBytes([record({ timeUs: 1 })]), hole, recordBlock([record({ timeUs: 2 })])]);
  const order = new OrderedTrace(new TraceReader(sourceOf(bytes), "x.trace"));
  const found = [order.next(), order.next(), order.next()?.timeUs, order.next()?.timeUs, order.next()];
  assertEquals(found, [undefined, undefined, 1, 2, undefined]);
  assertEquals(order.ended, true);

  const empty = joined(Array.from({ length: 2500 }, () => traceBytes([])));
  const sessions = new OrderedTrace(new TraceReader(sourceOf(empty), "x.trace"));
  assertEquals([sessions.next(), sessions.ended], [undefined, false], "sessions without records are no longer either");
  assertEquals([sessions.next(), sessions.next(), sessions.ended], [undefined, undefined, true]);

  const strange = recordBlock(Array.from({ length: RECORDS_PER_BLOCK }, () => record({ operation: 200 })));
  const { faults } = readAll(joined([traceBytes([]), ...Array.from({ length: 3000 }, () => strange)]));
  assertEquals(faults.unknownRecords, 3000 * RECORDS_PER_BLOCK);
});

Deno.test("what is no regular file is not opened as a trace", () => {
  assertThrows(() => openTrace("/"), XenblkError, "Cannot read trace /: it is a directory");
  assertThrows(() => openTrace("/dev/zero"), XenblkError, "it is not a regular file");
  const error = assertThrows(() => openTrace("/no/such"), XenblkError, "there is no such file");
  assertEquals(error.remedy, "record one with `--filter log,file=TRACE`");
});
