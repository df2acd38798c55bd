/**
 * `dry-run` as a user runs it: what it prints, verifies and leaves behind, and that it finds a disk that does not hold
 * what was written.
 */

import { assert, assertEquals, assertGreater, assertMatch, assertStringIncludes } from "@std/assert";
import { parseBlockSizes, segmentsFor } from "../../lib/cli/dry_run/block_sizes.ts";
import { faultOf, phaseOf, renderResult } from "../../lib/cli/dry_run/report.ts";
import { Histogram } from "../../lib/histogram.ts";
import type { LoadOutcome } from "../../lib/guest/load_types.ts";
import { startXenblk, xenblk } from "./command.ts";

/** Runs a test with a temporary directory, which the command uses for its own temporary files too. */
async function inDirectory(body: (path: string, env: Record<string, string>) => Promise<void>): Promise<void> {
  const path = await Deno.makeTempDir();
  try {
    await body(path, { TMPDIR: path });
  } finally {
    await Deno.remove(path, { recursive: true });
  }
}

function entries(path: string): string[] {
  return [...Deno.readDirSync(path)].map(({ name }) => name);
}

function randomImage(path: string, sizeBytes: number): Uint8Array {
  const bytes = new Uint8Array(sizeBytes);
  for (let at = 0; at < sizeBytes; at += 65536) crypto.getRandomValues(bytes.subarray(at, at + 65536));
  // Not truncated first: an image that is being read must not become shorter.
  using file = Deno.openSync(path, { write: true, create: true });
  assertEquals(file.writeSync(bytes), sizeBytes);
  return bytes;
}

Deno.test("dry-run creates an image, verifies it, shows a table and leaves nothing behind", () =>
  inDirectory(async (path, env) => {
    const { status, stdout, stderr } = await xenblk(["dry-run", "--size=4M", "--requests=2000"], { env });
    assertEquals([status, stderr], [0, ""]);
    assertMatch(stdout, /^new raw:.*\.img \(4\.0 MiB\), one guest, x86_64-abi, grants copy, seed 1\n/);
    assertMatch(stdout, /^PHASE +REQUESTS +MB\/s +IOPS +p50 µs +p90 µs +p99 µs +p99\.9 µs +VERIFIED SECTORS +ERRORS$/m);
    assertMatch(stdout, /^random +2000 .* 0$/m);
    assertMatch(stdout, /^read back +94 .* 8192 +0$/m);
    assertMatch(stdout, /\nVerified: \d+ sectors read back correctly, 8192 sectors of the image file compared\.\n$/);
    assertEquals(entries(path), []);
  }));

Deno.test("dry-run without the permission to write says which one is missing, and not to name another directory", async () => {
  const { status, stderr } = await xenblk(["dry-run", "--size=1M"], { permissions: ["--allow-read", "--allow-env"] });
  assertEquals([status, stderr], [
    1,
    "xenblk: Cannot create an image in the temporary directory: Deno was started without the permission to write there; " +
    "run deno with --allow-write, or use --engine memory\n",
  ]);
});

for (const abi of ["x86_64", "x86_32", "arm"]) {
  for (const grants of ["copy", "map", "map-each"]) {
    Deno.test(`dry-run verifies ${abi} with grants ${grants}, two guests on one Worker`, async () => {
      const args = ["dry-run", "--json", "--engine=memory", "--size=1M", "--requests=500", "--guests=2", "--workers=1"];
      const { status, stdout, stderr } = await xenblk([...args, `--abi=${abi}`, `--grants=${grants}`]);
      assertEquals([status, stderr], [0, ""]);
      const result = JSON.parse(stdout);
      assertEquals([result.guests, result.grants, result.abi], [2, grants, `${abi}-abi`]);
      assertEquals(result.phases.map(({ requests }: { requests: number }) => requests), [1000, 48]);
      assertEquals(result.phases[1].verifiedSectors, 2 * 2048);
    });
  }
}

Deno.test("dry-run only reads a given image, and needs no more than the documented permissions", () =>
  inDirectory(async (path) => {
    const image = `${path}/a.img`;
    const before = randomImage(image, 1 << 20);
    const root = new URL("../../", import.meta.url).pathname;
    const permissions = [`--allow-read=${root},${path}`, `--allow-write=${path}`];
    const { status, stdout, stderr } = await xenblk(["dry-run", image, "--requests=500", "--json"], { permissions });
    assertEquals(status, 0);
    assertMatch(stderr, /^xenblk: IMAGE is not locked, because Deno was started without --allow-ffi: .*\n$/);
    assertEquals(JSON.parse(stdout).imageSectorsVerified, 2048);
    assertEquals(Deno.readFileSync(image), before);
  }));

Deno.test("dry-run serves through filters; behind cow the guest writes, and the image is only read", () =>
  inDirectory(async (path) => {
    const image = `${path}/a.img`;
    const before = randomImage(image, 1 << 20);
    const filters = ["--filter=throttle,iops=100000", "--filter=cow"];
    const { status, stdout, stderr } = await xenblk(["dry-run", image, ...filters, "--requests=500", "--json"]);
    const { phases: [random, readBack], imageSectorsVerified } = JSON.parse(stdout);
    assertEquals([status, stderr, random.requests, readBack.verifiedSectors], [0, "", 500, 2048]);
    assertEquals([imageSectorsVerified, Deno.readFileSync(image)], [0, before]);
  }));

Deno.test("dry-run --write writes a given image and verifies what it did not write too", () =>
  inDirectory(async (path) => {
    const image = `${path}/a.img`;
    const before = randomImage(image, 1 << 20);
    const args = ["dry-run", image, "--write", "--requests=8", "--mix=0", "--block-sizes=4K", "--json"];
    const { status, stdout } = await xenblk(args);
    assertEquals([status, JSON.parse(stdout).imageSectorsVerified], [0, 2048]);
    const after = Deno.readFileSync(image);
    let changed = 0;
    for (let at = 0; at < after.length; at += 512) if (after[at + 9] !== before[at + 9]) changed += 512;
    assertGreater(changed, 0);
    assert(changed <= 8 * 4096, "more was written than was asked for");
  }));

Deno.test("dry-run refuses an image that another process writes to; --write needs permission to find that out", () =>
  inDirectory(async (path) => {
    const image = `${path}/a.img`;
    const before = randomImage(image, 1 << 20);
    const root = new URL("../../", import.meta.url).pathname;
    const permissions = [`--allow-read=${root},${path}`, `--allow-write=${path}`];
    const write = ["dry-run", image, "--write", "--requests=8"];
    const { status, stderr } = await xenblk(write, { permissions });
    assertEquals(status, 1);
    assertMatch(stderr, /Cannot write to IMAGE: .*permission.*--allow-ffi/s);
    const holder = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", `${root}tests/ffi/lock_child.ts`, image],
      stdout: "piped",
    }).spawn();
    try {
      const reader = holder.stdout.getReader();
      assertEquals(new TextDecoder().decode((await reader.read()).value), "locked\n");
      await reader.cancel();
      const refused = await xenblk(write);
      assertEquals(refused.status, 1);
      assertMatch(refused.stderr, new RegExp(`Cannot write to image .*: process ${holder.pid} .* uses it`));
      const unread = await xenblk(["dry-run", image]);
      assertEquals([unread.status, unread.stdout], [1, ""]);
      assertMatch(
        unread.stderr,
        new RegExp(`Cannot read image .*: process ${holder.pid} .* uses it; end that use first`),
      );
    } finally {
      holder.kill("SIGKILL");
      await holder.status;
    }
    assertEquals(Deno.readFileSync(image), before);
  }));

/** Whether this process may set up loop devices. */
function mayUseLoopDevices(): boolean {
  try {
    return new Deno.Command("losetup", { args: ["--find"], stdout: "null", stderr: "null" }).outputSync().success;
  } catch {
    return false;
  }
}

Deno.test({
  name: "dry-run --write refuses a block device that the host has mounted (needs root and loop devices)",
  ignore: !mayUseLoopDevices(),
  fn: () =>
    inDirectory(async (path) => {
      const [image, mount] = [`${path}/fs.img`, `${path}/mount`];
      const run = (program: string, ...args: string[]): string => {
        const { success, stdout, stderr } = new Deno.Command(program, { args }).outputSync();
        assert(success, new TextDecoder().decode(stderr));
        return new TextDecoder().decode(stdout).trim();
      };
      Deno.mkdirSync(mount);
      using stack = new DisposableStack();
      Deno.writeFileSync(image, new Uint8Array(0));
      Deno.truncateSync(image, 8 << 20);
      run("mkfs.ext4", "-q", "-F", image);
      const loop = run("losetup", "--find", "--show", image);
      stack.defer(() => run("losetup", "--detach", loop));
      run("mount", loop, mount);
      stack.defer(() => run("umount", mount));
      const { status, stdout, stderr } = await xenblk(["dry-run", loop, "--write", "--requests=8"]);
      assertEquals([status, stdout], [1, ""]);
      assertStringIncludes(stderr, `Cannot write to image ${loop}: it is mounted at ${mount}`);
    }),
});

Deno.test("dry-run keeps others from writing to a given image until it is over, and readers share it", () =>
  inDirectory(async (path) => {
    const image = `${path}/a.img`;
    randomImage(image, 1 << 20);
    const root = new URL("../../", import.meta.url).pathname;
    const run = startXenblk(["dry-run", image, "--seconds=60"]);
    // The run has no output before its end. Its lock is seen in /proc/locks, by the image's inode.
    const locked = (): boolean => Deno.readTextFileSync("/proc/locks").includes(`:${Deno.statSync(image).ino} `);
    while (!locked()) await new Promise((resolve) => setTimeout(resolve, 20));
    const other = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", `${root}tests/ffi/lock_child.ts`, image],
      stdout: "piped",
    }).spawn();
    const reader = other.stdout.getReader();
    assertMatch(new TextDecoder().decode((await reader.read()).value), /^refused: /);
    await reader.cancel();
    other.kill("SIGKILL");
    await other.status;
    const second = await xenblk(["dry-run", image, "--requests=10"]);
    assertEquals([second.status, second.stderr], [0, ""]);
    run.kill("SIGTERM");
    const { code } = await run.output();
    assertEquals(code, 143);
    assertEquals(locked(), false);
  }));

Deno.test("dry-run ends with 1 and the first miscompare when the image changes under it", () =>
  inDirectory(async (path) => {
    const image = `${path}/a.img`;
    randomImage(image, 64 * 1024);
    const child = startXenblk(["dry-run", image, "--seconds=1"]);
    // Several times, because the test does not know when the run has read what the image holds.
    const changing = setInterval(() => randomImage(image, 64 * 1024), 20);
    const { code, stdout, stderr } = await child.output();
    clearInterval(changing);
    assertEquals(code, 1);
    assertMatch(new TextDecoder().decode(stdout), /\nFailed\.\n$/);
    assertMatch(new TextDecoder().decode(stderr), /^xenblk: Cannot verify raw:.*: sector \d+ read back as .*expected /);
  }));

Deno.test("INT ends dry-run early: what was done is verified, and the image is removed", () =>
  inDirectory(async (path, env) => {
    const child = startXenblk(["dry-run", "--seconds=60", "--size=1M"], { env });
    const written = (): boolean => entries(path).some((name) => Deno.statSync(`${path}/${name}`).blocks !== 0);
    while (!written()) await new Promise((resolve) => setTimeout(resolve, 10));
    child.kill("SIGINT");
    const { code, stdout } = await child.output();
    assertEquals(code, 130);
    assertMatch(new TextDecoder().decode(stdout), /\nStopped early\. Verified: \d+ sectors/);
    assertEquals(entries(path), []);
  }));

Deno.test("dry-run refuses contradictory options with 2, and an image that cannot be served with 1", async (context) => {
  const cases: readonly (readonly [readonly string[], number, string])[] = [
    [["--write"], 2, "Cannot use --write without IMAGE"],
    [["--guests=2", "a.img"], 2, "Cannot use --guests with IMAGE"],
    [["--size=1M", "a.img"], 2, "Cannot use --size with IMAGE: it is the size of a new image"],
    [["--engine=memory", "a.img"], 2, "Cannot use --engine with IMAGE: it is the kind of a new image"],
    [["--depth=33", "/no/such.img"], 2, "Cannot use --depth=33"],
    [
      ["memory:16K"],
      2,
      "less than requests of up to 44.0 KiB; use a larger image, or smaller requests: --block-sizes=512-1",
    ],
    [["--size=64K", "--block-sizes=1M", "--engine=memory"], 2, "less than requests of up to 1.0 MiB"],
    [["--block-sizes=1000"], 2, "Cannot use --block-sizes=1000: it takes sizes separated by commas"],
    [["--depth=33"], 2, "Cannot use --depth=33 with a ring of one page: the most is 32"],
    [["--depth=300", "--queues=2", "--ring-page-order=2"], 2, "with 2 rings of 4 pages: the most is 256"],
    [["--size=100"], 2, "Cannot use --size=100: it takes a size"],
    [["--abi=ia64"], 2, "Cannot use --abi=ia64: it takes one of x86_64, x86_32, arm"],
    [["/"], 1, "Cannot open image /: it is a directory"],
    [["/no/such.img"], 1, "Cannot open image /no/such.img: there is no such file"],
  ];
  for (const [args, status, message] of cases) {
    await context.step(args.join(" "), async () => {
      const outcome = await xenblk(["dry-run", ...args]);
      assertEquals([outcome.status, outcome.stdout], [status, ""]);
      assertStringIncludes(outcome.stderr, message);
      assertEquals(outcome.stderr.trimEnd().split("\n").length, 1);
    });
  }
});

Deno.test("dry-run drives rings of several pages, several queues and indirect requests, and verifies them", () =>
  inDirectory(async (path, env) => {
    for (const engine of ["file", "memory"]) {
      const args = ["--engine", engine, "--size=16M", "--requests=400", "--block-sizes=512-1M", "--json"];
      const rings = ["--queues=4", "--ring-page-order=4", "--depth=96", "--guests=2"];
      const { status, stdout, stderr } = await xenblk(["dry-run", ...args, ...rings], { env });
      assertEquals([status, stderr], [0, ""]);
      const { phases, fault } = JSON.parse(stdout);
      assertEquals([fault ?? null, phases[0].requests, phases[0].errors], [null, 800, 0]);
      assert(phases[0].bytes > 200 * 2 ** 20, "most requests are large");
    }
    assertEquals(entries(path), []);
  }));

Deno.test("block sizes are a list or a range of sectors up to 256 pages", () => {
  assertEquals(parseBlockSizes("1M"), [2 ** 20]);
  assertEquals(parseBlockSizes("45K"), [46080]);
  assertEquals(["4K", "44K", "45K", "128K", "1M"].map((size) => segmentsFor(parseBlockSizes(size)!)), [
    11,
    11,
    13,
    33,
    256,
  ]);
  assertEquals(segmentsFor({ min: 512, max: 65536 }), 17);
  assertEquals(parseBlockSizes("4K"), [4096]);
  assertEquals(parseBlockSizes("512,44K"), [512, 45056]);
  assertEquals(parseBlockSizes("512-44K"), { min: 512, max: 45056 });
  for (const bad of ["", "0", "44.7K", "1025K", "8K-4K", "512-", "4K-8K-16K", "4K,,8K", "x"]) {
    assertEquals(parseBlockSizes(bad), undefined, bad);
  }
});

/** The outcome of ten reads without any fault. */
function outcome(parts: Partial<LoadOutcome> = {}): LoadOutcome {
  return {
    reads: 10,
    writes: 0,
    barriers: 0,
    flushes: 0,
    discards: 0,
    bytesRead: 40960,
    bytesWritten: 0,
    errors: 0,
    errorsByKind: {},
    verifiedSectors: 80,
    uncheckedSectors: 0,
    miscompares: 0,
    firstMiscompare: undefined,
    protocolErrors: 0,
    firstProtocolError: undefined,
    unanswered: 0,
    notificationsSent: 1,
    notificationsSaved: 0,
    elapsedMs: 10,
    latency: new Histogram().summary(),
    ...parts,
  };
}

Deno.test("anything wrong with a load or an image is a fault, and the first one is reported", () => {
  const miscompare = { sector: 7, expected: "write 3", got: "zeroes" };
  const verdict = { verifiedSectors: 1, uncheckedSectors: 0, miscompares: 2, firstMiscompare: miscompare };
  assertEquals(faultOf([outcome()], [undefined]), undefined);
  assertEquals(
    faultOf([outcome(), outcome({ miscompares: 4, firstMiscompare: miscompare })], []),
    "sector 7 read back as zeroes, expected write 3 (4 sectors differ)",
  );
  assertEquals(
    faultOf([outcome({ errors: 2, errorsByKind: { "write -1": 2 } })], []),
    "requests failed: 2 write (status -1)",
  );
  assertEquals(faultOf([outcome({ unanswered: 3 })], []), "3 requests were never answered");
  const broken = outcome({ protocolErrors: 1, firstProtocolError: "an unknown id" });
  assertEquals(faultOf([broken], []), "the backend broke the protocol: an unknown id");
  assertEquals(
    faultOf([outcome()], [undefined, verdict]),
    "sector 7 of the image file holds zeroes, expected write 3 (2 sectors differ)",
  );
});

Deno.test("a phase sums its loads over the time it took", () => {
  const histogram = new Histogram();
  for (const us of [100, 200, 300, 400]) histogram.record(us * 1000);
  const phase = phaseOf("random", [{ outcome: outcome(), histogram }, { outcome: outcome(), histogram }], 1000);
  assertEquals([phase.requests, phase.bytes, phase.iops, phase.mbPerSecond], [20, 81920, 20, 0.08192]);
  assert(Math.abs(phase.latencyUs.p50 - 200) <= 7, `p50 is ${phase.latencyUs.p50}`);
  const result = {
    image: "null:1M",
    sizeBytes: 1 << 20,
    guests: 2,
    abi: "arm-abi",
    grants: "map",
    seed: 3,
    interrupted: true,
    phases: [{ ...phase, verifiedSectors: 0 }],
    imageSectorsVerified: 0,
    fault: undefined,
  };
  assertStringIncludes(renderResult(result), "null:1M (1.0 MiB), 2 guests, arm-abi, grants map, seed 3\n");
  assertMatch(renderResult(result), /\nStopped early\. Done; nothing was verified\.\n$/);
});
