/**
 * `replay` as a user runs it: what it prints and writes, that two images that got the same trace are alike, and what it says
 * of traces that it cannot use.
 */

import { assert, assertEquals, assertMatch, assertNotEquals, assertStringIncludes } from "@std/assert";
import { Random } from "../../lib/guest/random.ts";
import { encodeSession } from "../../lib/trace/format.ts";
import { ROOT } from "../house/source.ts";
import {
  joined,
  readAll,
  readInOrder,
  record,
  recordBlock,
  recorded,
  type RecordFields,
  SESSION,
  traceBytes,
} from "../trace/traces.ts";
import { startXenblk, xenblk } from "./command.ts";

const [READ, WRITE, FLUSH, DISCARD] = [0, 1, 2, 3];
const SIZE = 2 ** 20;

async function inDirectory(body: (path: string) => Promise<void>): Promise<void> {
  const path = await Deno.makeTempDir();
  try {
    await body(path);
  } finally {
    await Deno.remove(path, { recursive: true });
  }
}

function newImage(path: string, sizeBytes = SIZE): string {
  Deno.writeFileSync(path, new Uint8Array(0));
  Deno.truncateSync(path, sizeBytes);
  return path;
}

/** Without flushes: the backend makes some of its own. */
function requestsOf(records: readonly RecordFields[]): RecordFields[] {
  return records.filter(({ operation }) => operation !== FLUSH);
}

/** Requests that overlap often, with flushes among them. */
function busyTrace(requests: number): RecordFields[] {
  const random = new Random(7);
  return Array.from({ length: requests }, (_, index) => {
    const operation = index % 20 === 19 ? FLUSH : random.chance(0.3) ? READ : WRITE;
    const sectorCount = operation === FLUSH ? 0 : random.between(1, 64);
    return record({ timeUs: index, operation, sector: random.below(200), sectorCount, ring: index % 3 });
  });
}

Deno.test("two images that get the same trace are alike afterwards, and the report compares them", () =>
  inDirectory(async (directory) => {
    const [a, b] = [newImage(`${directory}/a.img`), newImage(`${directory}/b.img`)];
    const trace = `${directory}/x.trace`;
    Deno.writeFileSync(trace, traceBytes(busyTrace(2000)));
    const { status, stdout, stderr } = await xenblk(["replay", trace, a, "--against", b, "--write", "--queues=2"]);
    assertEquals([status, stderr], [0, ""]);
    assertMatch(stdout, /^OPERATION +REQUESTS +IOPS +MB\/s +p50 µs +p99 µs +max µs +ERRORS$/m);
    assertMatch(stdout, /^write +A +\d+ .* 0\nwrite +B +\d+ .* 0\nwrite +B\/A +[\d.]+/m);
    assertStringIncludes(stdout, "\nBoth disks hold the same.\n");
    assertEquals(Deno.readFileSync(a), Deno.readFileSync(b));
    assert(Deno.readFileSync(a).subarray(0, 512).some((byte) => byte !== 0), "something was written");

    // Another depth and speed change nothing; another seed does.
    const c = newImage(`${directory}/c.img`);
    const args = ["replay", trace, c, "--json", "--write", "--depth=3", "--speed=10"];
    const alone = JSON.parse((await xenblk(args)).stdout);
    assertEquals(Deno.readFileSync(c), Deno.readFileSync(a));
    assertEquals([alone.speed, alone.identical, alone.sides.length, alone.ratios], [10, null, 1, []]);
    const other = await xenblk(["replay", trace, c, "--json", "--write", "--seed=2", "--against", a]);
    const report = JSON.parse(other.stdout);
    assertEquals([report.identical, report.differsFrom, report.sides[1].name], [true, null, "B"]);
    assertNotEquals(Deno.readFileSync(c), Deno.readFileSync(b));
  }));

Deno.test("without --write images stay as they are, and what was written over them can be compared", () =>
  inDirectory(async (directory) => {
    const [a, b] = [newImage(`${directory}/a.img`), newImage(`${directory}/b.img`)];
    Deno.writeFileSync(b, new Uint8Array(SIZE).fill(1, SIZE - 1));
    const trace = `${directory}/x.trace`;
    Deno.writeFileSync(trace, traceBytes(busyTrace(300)));
    const { status, stdout } = await xenblk(["replay", trace, a, "--against", b, "--json"]);
    const { identical, differsFrom, sides } = JSON.parse(stdout);
    assertEquals([status, identical, differsFrom], [0, false, SIZE - 65536]);
    assert(sides.every(({ operations }: { operations: { bytes: number }[] }) => operations[WRITE]!.bytes > 0));
    assert(Deno.readFileSync(a).every((byte) => byte === 0));
    const small = await xenblk(["replay", trace, a, "--filter=cow,size=64K"]);
    assertEquals(small.status, 1);
    assertMatch(small.stdout, /A: requests failed, first: write at sector \d+ \(-1\)/);
    assertMatch(small.stderr, /^xenblk: Cannot replay all of .*: \d+ requests failed$/m);
  }));

Deno.test("what the disk cannot have is skipped, and what is too large is split", () =>
  inDirectory(async (directory) => {
    const image = newImage(`${directory}/a.img`, 4 * SIZE);
    const trace = `${directory}/x.trace`;
    const records = [
      record({ operation: WRITE, timeUs: 1 }),
      record({ operation: DISCARD, timeUs: 2 }),
      record({ sector: 8190, timeUs: 3 }),
      record({ sector: 2 ** 47, timeUs: 4 }),
      record({ sectorCount: 0, timeUs: 5 }),
      record({ sectorCount: 5000, timeUs: 6 }),
      record({ operation: FLUSH, sectorCount: 0, timeUs: 90_003 }),
    ];
    Deno.writeFileSync(trace, joined([traceBytes(records), recordBlock([record({ operation: 77 })], 3)]));
    const { status, stdout, stderr } = await xenblk([
      "replay",
      trace,
      image,
      "--json",
      "--speed=recorded",
      "--filter=readonly",
    ]);
    assertEquals([status, stderr], [0, ""]);
    const { sides: [side], faults } = JSON.parse(stdout);
    assert(side.elapsedMs >= 89, "the flush comes at its time, counted from the first request that the disk can have");
    assertEquals(side.skipped, [
      { reason: "read-only", records: 2, operation: "write", firstSector: 0 },
      { reason: "beyond the end", records: 2, operation: "read", firstSector: 8190 },
      { reason: "empty", records: 1, operation: "read", firstSector: 0 },
    ]);
    assertEquals([side.records, side.split], [7, 1]);
    assertEquals(side.operations[READ], { ...side.operations[READ], requests: 3, bytes: 5000 * 512, errors: 0 });
    assertEquals([faults.lost, faults.unknownRecords], [3, 1]);
    assertMatch(faults.first, /^record 1 of the block at byte 8192: its operation is unknown$/);
    assert(Deno.readFileSync(image).every((byte) => byte === 0));
  }));

Deno.test("--dump prints a line of JSON for each session, each request and the end", () =>
  inDirectory(async (directory) => {
    const trace = `${directory}/x.trace`;
    const records = [
      record({ timeUs: 5, sector: 8, errno: 5 }),
      record({ timeUs: 3, operation: DISCARD, secure: true }),
    ];
    Deno.writeFileSync(trace, traceBytes(records));
    const { status, stdout, stderr } = await xenblk(["replay", "--dump", trace]);
    assertEquals([status, stderr], [0, ""]);
    const common = { type: "request", ring: 0, length: 4096, durationUs: 100 };
    assertEquals(stdout.trimEnd().split("\n").map((line) => JSON.parse(line)), [
      {
        type: "session",
        version: 1,
        disk: SESSION.disk,
        sizeBytes: SIZE,
        logicalSectorBytes: 512,
        start: new Date(SESSION.startMs).toISOString(),
      },
      { ...common, timeUs: 5, operation: "read", offset: 4096, errno: 5 },
      { ...common, timeUs: 3, operation: "discard", offset: 0, secure: true, errno: 0 },
      { type: "end", lost: 0, damagedBlocks: 0, unknownRecords: 0, cutBytes: 0, first: null },
    ]);
  }));

Deno.test("a signal ends a replay whose next request is days away, and the report says so", () =>
  inDirectory(async (directory) => {
    const trace = `${directory}/x.trace`;
    Deno.writeFileSync(trace, traceBytes([record(), record({ timeUs: 2 ** 47 })]));
    const child = startXenblk(["replay", trace, "memory:1M", "--speed=recorded", "--json", "-v"]);
    // The first line that is logged once the guest is connected.
    const errors = child.stderr.pipeThrough(new TextDecoderStream()).getReader();
    for (let text = ""; !text.includes("connected");) text += (await errors.read()).value!;
    child.kill("SIGINT");
    while (!(await errors.read()).done);
    const [{ code }, stdout] = [await child.status, await new Response(child.stdout).text()];
    const { interrupted, sides: [side] } = JSON.parse(stdout);
    assertEquals([code, interrupted], [130, true]);
    assert(side.operations[READ].requests <= 1);
  }));

Deno.test("the trace of a killed process is whole up to its last block, and the next process continues it", () =>
  inDirectory(async (directory) => {
    const [trace, log] = [`${directory}/x.trace`, `${directory}/log.trace`];
    Deno.writeFileSync(trace, traceBytes([...busyTrace(500), record({ timeUs: 2 ** 40 })]));
    const child = startXenblk(["replay", trace, "memory:1M", `--filter=log,file=${log}`, "--speed=recorded"]);
    await recorded(log, 500);
    child.kill("SIGKILL");
    await child.output();
    const { status, stderr } = await xenblk(["replay", log, "memory:1M", `--filter=log,file=${log}2`]);
    assertEquals([status, stderr], [0, ""]);
    const again = readInOrder(Deno.readFileSync(`${log}2`)).records;
    const first = readInOrder(Deno.readFileSync(log)).records;
    assertEquals(requestsOf(again).length, requestsOf(first).length);

    const next = await xenblk(["replay", log, "memory:1M", `--filter=log,file=${log}2`]);
    assertEquals(next.status, 0);
    const { sessions, faults } = readAll(Deno.readFileSync(`${log}2`));
    assertEquals([sessions.length, faults.first], [2, undefined]);
  }));

Deno.test("a full file system costs the trace, with one warning, and not the disk", () =>
  inDirectory(async (directory) => {
    const [trace, log] = [`${directory}/x.trace`, `${directory}/log.trace`];
    Deno.writeFileSync(trace, traceBytes(busyTrace(3000)));
    const args = ["run", "-A", `${ROOT}cli.ts`, "replay", trace, "memory:1M", "--json", `--filter=log,file=${log}`];
    // Files of at most 40 blocks of 512 bytes; a write beyond that fails, and does not kill.
    const script = `trap '' XFSZ; ulimit -f 40; exec "$@"`;
    const shell = new Deno.Command("bash", { args: ["-c", script, "bash", Deno.execPath(), ...args] });
    const { code, stdout, stderr } = await shell.output();
    const text = new TextDecoder();
    const { sides: [side] } = JSON.parse(text.decode(stdout));
    assertEquals([code, side.records], [0, 3000]);
    const lines = text.decode(stderr).trimEnd().split("\n");
    assertEquals(lines.length, 1, lines.join("\n"));
    assertMatch(lines[0]!, /Cannot write trace .*log\.trace: .*; the disk goes on, and nothing more is recorded$/);
    assert(readAll(Deno.readFileSync(log)).records.length > 0);
  }));

Deno.test("what cannot be replayed is one line that says why", async (context) => {
  const directory = await Deno.makeTempDir();
  const version2 = encodeSession(SESSION);
  version2[4] = 2;
  const files: Readonly<Record<string, Uint8Array>> = {
    "v2": version2,
    "garbage": new Uint8Array(10_000).fill(65),
    "good": traceBytes([record()]),
  };
  for (const [name, bytes] of Object.entries(files)) Deno.writeFileSync(`${directory}/${name}`, bytes);
  const cases: readonly (readonly [args: readonly string[], status: number, message: string])[] = [
    [["v2", "memory:1M"], 1, "the block at byte 0: it is of version 2 of the format, and this program reads version 1"],
    [["--dump", "garbage"], 1, "the block at byte 0: it does not begin with xbtr"],
    [["none", "memory:1M"], 1, "there is no such file; record one with `--filter log,file=TRACE`"],
    [["good"], 2, "Cannot replay without IMAGE"],
    [["good", "memory:1M", "--engine=uring"], 2, "it takes one of auto, file, memory, null"],
    [["good", "memory:1M", "--speed=0"], 2, "it takes recorded, max, or a number above 0"],
    [["good", "memory:1M", "--filter=none"], 2, 'Cannot use filter "none"'],
  ];
  for (const [[first, ...rest], status, message] of cases) {
    await context.step([first, ...rest].join(" "), async () => {
      const args = [first!, ...rest].map((arg) => arg in files || arg === "none" ? `${directory}/${arg}` : arg);
      const outcome = await xenblk(["replay", ...args]);
      assertEquals([outcome.status, outcome.stdout], [status, ""]);
      assertStringIncludes(outcome.stderr, message);
      assertEquals(outcome.stderr.trimEnd().split("\n").length, 1);
    });
  }
  await Deno.remove(directory, { recursive: true });
});
