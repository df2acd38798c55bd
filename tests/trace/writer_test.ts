/**
 * Writing a trace: the way of records through shared memory and the Worker into the file, what happens when there is no
 * room, and how a later writer continues.
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { XenblkError } from "../../lib/errors.ts";
import { TraceFile } from "../../lib/trace/file.ts";
import { BLOCK_BYTES, RECORDS_PER_BLOCK } from "../../lib/trace/format.ts";
import { TraceRecord } from "../../lib/trace/record.ts";
import { createTraceMemory, TraceConsumer, TraceProducer } from "../../lib/trace/rings.ts";
import { TraceWriter } from "../../lib/trace/writer.ts";
import { readAll, readInOrder, record, recordBytes, recorded, SESSION } from "./traces.ts";

async function inDirectory(body: (path: string) => Promise<void> | void): Promise<void> {
  const path = await Deno.makeTempDir();
  try {
    await body(path);
  } finally {
    await Deno.remove(path, { recursive: true });
  }
}

function put(producer: TraceProducer, timeUs: number): void {
  producer.put(Object.assign(new TraceRecord(), record({ timeUs })));
}

function open(path: string, limitBytes?: number, warnings: string[] = []): Promise<TraceWriter> {
  return TraceWriter.open({
    path,
    session: SESSION,
    ...(limitBytes === undefined ? {} : { limitBytes }),
    warn: (line) => warnings.push(line),
  });
}

Deno.test("records of several rings reach the file while it is written, and all of them when it is closed", () =>
  inDirectory(async (directory) => {
    const path = `${directory}/a.trace`;
    {
      await using writer = await open(path);
      using one = TraceProducer.open(writer.memory)!;
      using other = TraceProducer.open(writer.memory)!;
      assertEquals([one.ring, other.ring], [0, 1]);
      for (let i = 0; i < 500; i++) put(i % 2 === 0 ? one : other, i);
      one.publish();
      other.publish();
      await recorded(path, 500);
      put(other, 500);
      other.publish();
    }
    const { records, late } = readInOrder(Deno.readFileSync(path));
    assertEquals([records.length, late], [501, 0]);
    assert(records.every(({ timeUs, ring }, index) => timeUs === index && (index === 500 || ring === index % 2)));
    assertEquals(Deno.statSync(path).mode! & 0o777, 0o600);
  }));

Deno.test("what the writer has no time for is counted as lost, and a closed channel's part goes to the next", () => {
  const memory = createTraceMemory();
  const consumer = new TraceConsumer(memory);
  const drained: number[] = [];
  const drain = (): number => consumer.drain((bytes) => drained.push(bytes.length / 32));
  {
    using producer = TraceProducer.open(memory)!;
    for (let i = 0; i < 16384 + 5; i++) put(producer, i);
    producer.publish();
    assertEquals([drain(), consumer.takeLost(), consumer.takeLost()], [16384, 5, 0]);
    for (let i = 0; i < 3; i++) put(producer, i);
    producer.publish();
  }
  using next = TraceProducer.open(memory)!;
  assertEquals(next.ring, 0);
  put(next, 7);
  next.publish();
  assertEquals([drain(), drained], [4, [16384, 4]]);
  const more = Array.from({ length: 63 }, () => TraceProducer.open(memory)!);
  assertEquals(TraceProducer.open(memory), undefined);
  for (const producer of more) producer[Symbol.dispose]();
});

Deno.test("a trace stops at its limit and says how many requests are missing", () =>
  inDirectory(async (directory) => {
    const path = `${directory}/a.trace`;
    const warnings: string[] = [];
    {
      await using writer = await open(path, 3 * BLOCK_BYTES, warnings);
      using producer = TraceProducer.open(writer.memory)!;
      for (let i = 0; i < 2 * RECORDS_PER_BLOCK + 9; i++) put(producer, i);
      producer.publish();
    }
    const { records, faults } = readAll(Deno.readFileSync(path));
    assertEquals([records.length, faults.lost], [2 * RECORDS_PER_BLOCK, 9]);
    assertEquals(Deno.statSync(path).size, 3 * BLOCK_BYTES);
    // The next session is served without being recorded.
    await (await open(path, 3 * BLOCK_BYTES, warnings))[Symbol.asyncDispose]();
    assertEquals(Deno.statSync(path).size, 3 * BLOCK_BYTES);
    assertEquals(
      warnings,
      Array(2).fill(`trace ${path} has reached its limit: further requests are counted, not recorded`),
    );
  }));

Deno.test("a killed writer leaves whole blocks, and the next one continues behind them", () =>
  inDirectory((directory) => {
    const path = `${directory}/a.trace`;
    {
      // Not flushed: what a process had not written when it was killed.
      using file = TraceFile.open(path, SESSION);
      file.begin();
      file.append(recordBytes([record({ timeUs: 1 })]));
      file.flush();
      file.append(recordBytes([record({ timeUs: 2 })]));
    }
    // A write that was under way.
    Deno.writeFileSync(path, new Uint8Array(1000).fill(1), { append: true });
    {
      using file = TraceFile.open(path, { ...SESSION, startMs: 5 });
      file.begin();
      file.append(recordBytes([record({ timeUs: 3 })]));
      file.flush();
      file.append(recordBytes([record({ timeUs: 4 })]));
      file.flush();
    }
    const { sessions, records, faults } = readAll(Deno.readFileSync(path));
    assertEquals(sessions.map(({ startMs }) => startMs), [SESSION.startMs, 5]);
    assertEquals([records.map(({ timeUs }) => timeUs), faults.first], [[1, 3, 4], undefined]);
  }));

Deno.test("a file that is no trace, or that another writer has, is refused and stays as it is", () =>
  inDirectory(async (directory) => {
    const image = `${directory}/disk.img`;
    Deno.writeFileSync(image, new Uint8Array(BLOCK_BYTES).fill(7));
    const refused = await assertRejects(() => open(image), XenblkError, "it exists, and is no trace");
    assertEquals(refused.remedy, "name a new file");
    assertEquals(Deno.readFileSync(image), new Uint8Array(BLOCK_BYTES).fill(7));
    await assertRejects(() => open(directory), XenblkError, "it is a directory");
    await assertRejects(() => open("/dev/full"), XenblkError, "it is not a regular file");
    await assertRejects(() => open(`${directory}/none/a.trace`), XenblkError, "Cannot write trace");
    await using _writer = await open(`${directory}/a.trace`);
    const second = await assertRejects(() => open(`${directory}/a.trace`), XenblkError, "another disk or process");
    assertEquals(second.remedy, "use {device} in its name, so that each disk has its own");
  }));
