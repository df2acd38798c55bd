/**
 * The verbs that use xenstore, as commands against a real xenstored without a hypervisor: what they print, what they
 * refuse with which exit status, and that a refusal leaves the store unchanged. No guest answers here.
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { HangingFileSystem, missingFuse } from "../native/hanging_fs.ts";
import { nativeTest, NativeXen } from "../native/harness.ts";
import { type Outcome, type RunOptions, startXenblk, xenblk } from "./command.ts";

const GUEST = 5;
const FRONTENDS = `/local/domain/${GUEST}/device/vbd`;

/** A host with one guest and an image, and the command in it. */
class Bench implements AsyncDisposable {
  readonly image: string;

  private constructor(readonly xen: NativeXen) {
    this.image = `${xen.directory}/disk.img`;
    Deno.writeFileSync(this.image, new Uint8Array(1 << 20));
  }

  static async start(): Promise<Bench> {
    const xen = await NativeXen.start();
    await xen.createDomain(GUEST, "web");
    // These outlive the disks.
    for (const path of [FRONTENDS, "/local/domain/0/backend"]) {
      await xen.run("xenstore-write", [path, ""]);
    }
    return new Bench(xen);
  }

  options(env: Readonly<Record<string, string>> = {}): RunOptions {
    return { env: { ...this.xen.env(), ...env } };
  }

  run(args: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<Outcome> {
    return xenblk(args, this.options(env));
  }

  /** All nodes with their values, for before and after. */
  store(): Promise<string> {
    return this.xen.run("xenstore-ls", ["-f", "-p"]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.xen[Symbol.asyncDispose]();
  }
}

/** Starts a verb that stays, waits for a line on its stderr, sends the signal and returns the outcome. */
async function signalAfter(bench: Bench, args: readonly string[], line: RegExp, signal: Deno.Signal): Promise<Outcome> {
  const child = startXenblk(args, bench.options());
  const stdout = new Response(child.stdout).text();
  let stderr = "";
  let sent = false;
  for await (const chunk of child.stderr.pipeThrough(new TextDecoderStream())) {
    stderr += chunk;
    if (!sent && line.test(stderr)) child.kill(signal);
    sent ||= line.test(stderr);
  }
  return { status: (await child.status).code, stdout: await stdout, stderr };
}

nativeTest("each bad input is refused in one line with its status, and leaves nothing in xenstore", async (context) => {
  await using bench = await Bench.start();
  const missing = `${bench.xen.directory}/none.img`;
  const text = `${bench.xen.directory}/text.img`;
  Deno.writeTextFileSync(text, "short");
  const attach = (...args: string[]): string[] => ["attach", ...args, "--timeout=1"];
  const library = "/nonexistent/libxengnttab.so";
  const cases: readonly (readonly [string, readonly string[], number, RegExp, Record<string, string>?])[] = [
    ["an unknown domain", attach("db", bench.image), 3, /Cannot find domain db: there is .*web \(domain 5\)/],
    ["an unknown domid", attach("77", bench.image), 3, /Cannot find domain 77/],
    ["a missing image", attach("web", missing), 1, /Cannot open image .*none\.img: there is no such file; create it/],
    ["a directory", attach("web", bench.xen.directory), 1, /Cannot open image .*: it is a directory; name an image/],
    ["an image below a sector", attach("web", text), 1, /smaller than one sector/],
    ["another format", attach("web", `qcow2:${bench.image}`), 1, /Image is not in qcow2 format; name its real format/],
    ["no virtual device", attach("web", bench.image, "foo"), 2, /foo/],
    ["a library that is missing", attach("web", bench.image), 5, /Cannot load libxengnttab: .*correct XENBLK_LIB/, {
      XENBLK_LIBXENGNTTAB: library,
    }],
    ["serve without a library", ["serve"], 5, /Cannot load libxengnttab/, { XENBLK_LIBXENGNTTAB: library }],
    ["xenstored not running", ["list"], 5, /Cannot connect to xenstored: .*; start xenstored/, {
      XENSTORED_PATH: missing,
      XENSTORED_RUNDIR: missing,
    }],
    ["serve without xenstored", ["serve"], 5, /Cannot connect to xenstored/, {
      XENSTORED_PATH: missing,
      XENSTORED_RUNDIR: missing,
    }],
    ["a disk that the guest has not", ["detach", "web", "xvdb"], 3, /Cannot find disk xvdb of domain 5/],
    ["a bad backend path", ["serve", "/local/domain/0"], 2, /Cannot use backend path "\/local\/domain\/0"/],
    ["a kind that contradicts the path", ["serve", "backend/vbd3/5/51712", "--kind=qdisk"], 2, /it is of kind vbd3/],
    ["a list of an unknown domain", ["list", "db"], 3, /Cannot find domain db/],
  ];
  const before = await bench.store();
  for (const [what, args, status, message, env] of cases) {
    await context.step(what, async () => {
      const outcome = await bench.run(args, env);
      assertMatch(outcome.stderr, message);
      assertEquals([outcome.status, outcome.stdout], [status, ""]);
      assertEquals(outcome.stderr.trimEnd().split("\n").length, 1);
      assertEquals(await bench.store(), before);
    });
  }
});

nativeTest("commands against a stopped xenstored end in bounded time with 5 and what to do", async () => {
  await using bench = await Bench.start();
  const pid = bench.xen.xenstoredPid!;
  Deno.kill(pid, "SIGSTOP");
  try {
    for (const args of [["list"], ["show", "5", "xvda"], ["detach", "5", "xvda"], ["resize", "5", "xvda"], ["serve"]]) {
      const { status, stdout, stderr } = await bench.run([...args, "-v"]);
      assertEquals([status, stdout], [5, ""], stderr);
      assertMatch(
        stderr,
        /^xenblk: Cannot [^\n]*(has not answered for 1\.5 s|accepts no more clients); check that .*\n$/,
      );
    }
  } finally {
    Deno.kill(pid, "SIGCONT");
  }
});

nativeTest("attach to a guest that does not answer times out with 4 and takes everything back", async () => {
  await using bench = await Bench.start();
  const before = await bench.store();
  const { status, stdout, stderr } = await bench.run(["attach", "web", bench.image, "--timeout=1"]);
  assertEquals([status, stdout], [4, ""]);
  assertMatch(stderr, /Cannot attach xvda of domain 5: the guest did not connect in time \(backend InitWait/);
  assertEquals(await bench.store(), before);
});

nativeTest("attach refuses an image that another guest of the host has, unless it is shared", async () => {
  await using bench = await Bench.start();
  await bench.xen.createDomain(6, "db");
  const other = "/local/domain/0/backend/qdisk/6/51712";
  const nodes = { frontend: "/local/domain/6/device/vbd/51712", mode: "w", params: `aio:${bench.image}`, state: "4" };
  for (const [name, value] of Object.entries(nodes)) await bench.xen.run("xenstore-write", [`${other}/${name}`, value]);
  const before = await bench.store();
  const refused = await bench.run(["attach", "web", bench.image, "--timeout=1"]);
  assertEquals([refused.status, refused.stdout], [1, ""]);
  assertMatch(
    refused.stderr,
    /Cannot write to image .*disk\.img: xvda of db \(domain 6\) uses it \(qdisk, mode w\); detach/,
  );
  const reader = await bench.run(["attach", "web", bench.image, "--timeout=1", "--read-only"]);
  assertMatch(
    reader.stderr,
    /Cannot read image .*: xvda of db .* uses it .*; detach it there .* read-only there too\n$/,
  );
  // No guest answers, so an attach that is not refused ends with 4.
  assertEquals((await bench.run(["attach", "web", bench.image, "--timeout=1", "--shared"])).status, 4);
  assertEquals((await bench.run(["attach", "web", `access=w!,target=${bench.image}`, "--timeout=1"])).status, 4);
  assertEquals(await bench.store(), before);
});

nativeTest("another guest's image on a file system that hangs delays no attach", async () => {
  await using bench = await Bench.start();
  await using fuse = await HangingFileSystem.mount();
  const image = fuse.image("disk.img", 1 << 20);
  await bench.xen.createDomain(6, "db");
  const other = "/local/domain/0/backend/qdisk/6/51712";
  const nodes = { frontend: "/local/domain/6/device/vbd/51712", mode: "w", params: `aio:${image}`, state: "4" };
  for (const [name, value] of Object.entries(nodes)) await bench.xen.run("xenstore-write", [`${other}/${name}`, value]);
  // With interrupts, so that the kernel lets the process end while its look at the other image still waits.
  await fuse.hang("lookup", "getattr", "interrupts");
  const started = performance.now();
  const { status } = await bench.run(["attach", "web", bench.image, "--timeout=1"]);
  assertEquals(status, 4, "no guest answers");
  assert(performance.now() - started < 10_000, "the other guest's image is not waited for");
}, missingFuse());

nativeTest("detach removes a left-over frontend directory, which attach calls taken", async () => {
  await using bench = await Bench.start();
  const before = await bench.store();
  await bench.xen.run("xenstore-write", [`${FRONTENDS}/51712/state`, "6"]);
  assertEquals((await bench.run(["attach", "web", bench.image, "xvda", "--timeout=1"])).status, 1);
  const { status, stderr } = await bench.run(["detach", "web", "xvda"]);
  assertEquals([status, stderr], [0, "xenblk: xvda of web (domain 5) is detached\n"]);
  assertEquals(await bench.store(), before);
});

nativeTest("attach ended by TERM while it waits takes everything back", async () => {
  await using bench = await Bench.start();
  const before = await bench.store();
  const args = ["attach", "web", bench.image, "--timeout=60"];
  const { status, stdout, stderr } = await signalAfter(bench, args, /offering/, "SIGTERM");
  assertEquals([status, stdout], [1, ""]);
  assertMatch(stderr, /Cannot attach xvda: ended by SIGTERM\n$/);
  assertEquals(await bench.store(), before);
});

nativeTest(
  "attach and dry-run ended by a signal while their image does not open end at once, each with its status",
  async () => {
    await using bench = await Bench.start();
    await using fuse = await HangingFileSystem.mount();
    const image = fuse.image("disk.img", 1 << 20);
    const before = await bench.store();
    for (
      const [args, signal, status, message] of [
        [["attach", "web", image], "SIGINT", 1, `xenblk: Cannot attach ${image}: ended by SIGINT\n`],
        [["dry-run", image], "SIGTERM", 143, `xenblk: Cannot open ${image}: ended by SIGTERM\n`],
      ] as const
    ) {
      // With interrupts, so that the kernel lets the process end.
      await fuse.hang("open", "interrupts");
      const child = startXenblk(args, bench.options());
      const output = child.output();
      await fuse.untilHeld("open");
      const sent = performance.now();
      child.kill(signal);
      const { code, stderr } = await output;
      assert(performance.now() - sent < 2_000, `${args[0]} has not ended in time`);
      assertEquals([code, new TextDecoder().decode(stderr)], [status, message]);
      await fuse.resume();
    }
    assertEquals(await bench.store(), before);
  },
  missingFuse(),
);

nativeTest("attach to a device that is taken names who has it", async () => {
  await using bench = await Bench.start();
  await bench.xen.run("xenstore-write", [`${FRONTENDS}/51712/state`, "1"]);
  const before = await bench.store();
  const { status, stderr } = await bench.run(["attach", "web", bench.image, "xvda", "--timeout=1"]);
  assertEquals(status, 1);
  assertMatch(stderr, /Cannot attach xvda to domain 5: it is taken by \/local\/domain\/5\/device\/vbd\/51712; choose/);
  assertEquals(await bench.store(), before);
});

nativeTest("list and show say what the store holds, as text and as the same in JSON", async () => {
  await using bench = await Bench.start();
  assertEquals((await bench.run(["list", "--json"])).stdout, "[]\n");
  const backend = `/local/domain/0/backend/vbd3/${GUEST}/51728`;
  const nodes = { frontend: `${FRONTENDS}/51728`, state: "4", mode: "w", params: "raw:/a b.img", sectors: "2048" };
  for (const [name, value] of Object.entries(nodes)) {
    await bench.xen.run("xenstore-write", [`${backend}/${name}`, value]);
  }
  const table = await bench.run(["list", "web", "--no-headings"]);
  assertMatch(
    table.stdout,
    /^ *5 +web +xvdb +vbd3 +w +1\.0 MiB +Connected +gone +raw:\/a b\.img\n +hint: no process of xenblk answers for it; .*\n$/,
  );
  const [device] = JSON.parse((await bench.run(["list", "--json"])).stdout);
  assertEquals([device.domainName, device.name, device.sectors], ["web", "xvdb", 2048]);
  const shown = await bench.run(["show", "web", "xvdb"]);
  assertMatch(shown.stdout, /^image +raw:\/a b\.img$/m);
  assertMatch(shown.stdout, /^backend +Connected, to be removed: /m);
  assertEquals(JSON.parse((await bench.run(["show", "5", "51728", "--json"])).stdout).frontendState, "gone");
  const missing = await bench.run(["show", "web", "xvdc"]);
  assertEquals([missing.status, missing.stdout], [3, ""]);
});

nativeTest("detach of a disk that no backend serves waits, and --force removes it", async () => {
  await using bench = await Bench.start();
  const before = await bench.store();
  const backend = `/local/domain/0/backend/vbd3/${GUEST}/51728`;
  for (const [name, value] of [["frontend", `${FRONTENDS}/51728`], ["state", "4"], ["online", "1"]] as const) {
    await bench.xen.run("xenstore-write", [`${backend}/${name}`, value]);
  }
  await bench.xen.run("xenstore-write", [`${FRONTENDS}/51728/state`, "4"]);
  const late = await bench.run(["detach", "web", "xvdb", "--timeout=1"]);
  assertEquals(late.status, 4);
  assertStringIncludes(late.stderr, "--force");
  const forced = await bench.run(["detach", "web", "xvdb", "--timeout=1", "--force"]);
  assertEquals([forced.status, forced.stderr], [0, "xenblk: xvdb of web (domain 5) is detached\n"]);
  const after = (await bench.store()).split("\n").filter((line) => line.includes("51728"));
  assertEquals(after, []);
  assert(before.includes(FRONTENDS), "the guest's own directory stays");
});

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  nativeTest(`serve with nothing to serve ends by ${signal} with 0`, async () => {
    await using bench = await Bench.start();
    const args = ["serve", "--kind", "qdisk"];
    const { status, stdout, stderr } = await signalAfter(bench, args, /serving all of kind qdisk/, signal);
    assertEquals([status, stdout], [0, ""]);
    assertMatch(stderr, new RegExp(`ending: ${signal}`));
  });
}

nativeTest("doctor finds the libraries and xenstored that are there", async () => {
  await using bench = await Bench.start();
  const { stdout } = await bench.run(["doctor", "--json"]);
  const rows = JSON.parse(stdout) as { check: string; standing: string }[];
  const ok = rows.filter(({ standing }) => standing === "ok").map(({ check }) => check);
  for (const check of ["xenstored", "libxengnttab", "libxenevtchn", "xenstored socket"]) {
    assert(ok.includes(check), `${check} is not ok`);
  }
  const journals = `${bench.xen.directory}/journals`;
  Deno.mkdirSync(journals, { recursive: true });
  Deno.writeFileSync(`${journals}/vbd3-5-51728-0`, new Uint8Array(1));
  const text = (await bench.run(["doctor"])).stdout;
  assertStringIncludes(text, `or rm ${journals}/vbd3-5-51728-*`);
});
