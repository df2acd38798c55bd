/**
 * The command in a process of its own: the help of every verb, wrong usage, streams and exit statuses. What the verbs do
 * is tested elsewhere.
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { CATALOG } from "../../lib/cli/catalog.ts";
import { ROOT } from "../house/source.ts";
import { startXenblk, xenblk } from "./command.ts";

const VERSION = JSON.parse(Deno.readTextFileSync(ROOT + "deno.json")).version;

Deno.test("--help shows every verb on stdout", async () => {
  const { status, stdout, stderr } = await xenblk(["--help"]);
  assertEquals([status, stderr], [0, ""]);
  for (const { name, summary } of CATALOG) {
    assertMatch(stdout, new RegExp(`^ {2}${name} +${summary.slice(0, 20)}`, "m"));
  }
});

Deno.test("without a verb the overview goes to stderr, and the status is 2", async () => {
  const { status, stdout, stderr } = await xenblk([]);
  assertEquals([status, stdout], [2, ""]);
  assertStringIncludes(stderr, "Usage: xenblk VERB");
});

Deno.test("-V shows the version of deno.json", async () => {
  assertEquals(await xenblk(["-V"]), { status: 0, stdout: `xenblk ${VERSION}\n`, stderr: "" });
});

for (const entry of CATALOG) {
  Deno.test(`${entry.name} --help tells its operands, options and permissions, and loads no library`, async () => {
    const { status, stdout, stderr } = await xenblk([...entry.name.split(" "), "--help"], {
      permissions: ["--allow-read"],
    });
    assertEquals([status, stderr], [0, ""]);
    const verb = await entry.load();
    assertEquals([verb.name, verb.summary], [entry.name, entry.summary]);
    assertStringIncludes(stdout, `Usage: xenblk ${entry.name} [OPTIONS]`);
    for (const name of Object.keys(verb.options)) assertStringIncludes(stdout, `--${name}`);
    for (const { name } of verb.operands) assertStringIncludes(stdout, name);
    assertStringIncludes(stdout, "Deno permissions:");
    assert(stdout.split("\n").every((line) => line.length <= 110), "a line is too wide");
  });

  Deno.test(`${entry.name} refuses an unknown option with status 2 and writes nothing to stdout`, async () => {
    const { status, stdout, stderr } = await xenblk([...entry.name.split(" "), "--no-such-option"]);
    assertEquals([status, stdout], [2, ""]);
    assertEquals(
      stderr,
      `xenblk: Cannot use --no-such-option: ${entry.name} has no such option; see xenblk ${entry.name} --help\n`,
    );
  });
}

Deno.test("an unknown verb is named, with the one that was probably meant", async () => {
  const { status, stdout, stderr } = await xenblk(["doctr"]);
  assertEquals([status, stdout], [2, ""]);
  assertEquals(
    stderr,
    'xenblk: Cannot run "doctr": there is no such verb, did you mean doctor; see xenblk --help\n',
  );
});

Deno.test("wrong operands are usage errors before Xen is looked for, whatever the verb", async (context) => {
  // With no xenstored to connect to, any look-up would end with 5.
  const env = { XENSTORED_PATH: "/nonexistent", XENSTORED_RUNDIR: "/nonexistent" };
  const cases: readonly (readonly [readonly string[], string])[] = [
    [["attach", "web", "disk.img", "disk1"], 'Cannot use virtual device "disk1"'],
    [["attach", "web", "vdev=xvdzzzzz,target=disk.img"], 'Cannot use virtual device "xvdzzzzz"'],
    [["attach", "web", "rwa:disk.img"], "unknown format rwa"],
    [["attach", "web", "access=x,target=disk.img"], "access=x has a value that is unknown; use one of r, ro, w, rw"],
    [["attach", "web", "access=ro,colour=red,target=disk.img"], "unknown field colour=red"],
    [["attach", "web", "memory:much"], "Cannot read size"],
    [["attach", "web", "null:1M", "--engine=uring"], "engine uring does not serve this format"],
    [["attach", "web", "access=ro,target=disk.img", "--shared"], "Cannot share a disk that is read-only"],
    [["attach", "web", "disk.img", "--filter=throtle"], 'Cannot use filter "throtle": there is none of that name'],
    [["limit", "web", "xvda", "--iops=5", "--read-iops=4"], "Cannot use limits: requests are limited together"],
    [["serve", "--filter", "error,errno=EFOO"], "Cannot use filter error: errno takes the name of an error"],
    [["dry-run", "--filter", "delay,read=1h"], "Cannot use filter delay: read takes a number from 0 to 3600000"],
    [["detach", "web", "disk1"], 'Cannot use virtual device "disk1"'],
    [["show", "web", "xvda256"], "the last partition of its kind is 255"],
    [["resize", "web", "hde"], "the last disk of its kind is hdd"],
    [["resize", "web", "xvdb", "10"], "Cannot use size 10: it is not a multiple of 512 bytes above 0"],
    [["serve", "backend/vbd3/5"], "it is not the path of a device"],
    [["serve", "backend/vbd3/5/51712", "--kind=qdisk"], "it is of kind vbd3"],
    [["serve", "--image=disk.img"], "Cannot use --image without BACKEND-PATH"],
    [["attach", "web"], "Cannot run attach without IMAGE: a path, format:target"],
    [["attach", "web", "a.qcow2", "--create=100"], "Cannot use --create=100: it takes a size such as 64K"],
    [["attach", "web", "--overlay=a", "--create=1M"], "an overlay has the size of its base"],
    [["attach", "web", "--overlay=a", "disk1"], 'Cannot use virtual device "disk1"'],
    [["attach", "web", "--overlay=a", "xvdb", "xvdc"], "with --overlay, attach takes at most DOMAIN VDEV"],
    [["attach", "web", "--overlay=a", "--keep"], "the disk needs the overlay; name a place for it with --keep-overlay"],
    [["attach", "web", "a", "--keep-overlay=b"], "Cannot use --keep-overlay without --overlay"],
  ];
  for (const [args, message] of cases) {
    await context.step(args.join(" "), async () => {
      const { status, stdout, stderr } = await xenblk(args, { env });
      assertStringIncludes(stderr, message);
      assertEquals([status, stdout], [2, ""]);
    });
  }
});

Deno.test("doctor gives JSON of the same rows as its table", async () => {
  const [table, json] = await Promise.all([xenblk(["doctor", "--no-headings"]), xenblk(["doctor", "--json"])]);
  const rows = JSON.parse(json.stdout) as { check: string; standing: string }[];
  assertEquals(table.status, json.status);
  assertEquals(json.status, rows.some(({ standing }) => standing === "fail") ? 5 : 0);
  assertEquals(
    table.stdout.trimEnd().split("\n").filter((line) => !line.startsWith(" ")).map((line) => line.split(/ {2,}/)[0]),
    rows.map(({ check }) => check),
  );
});

Deno.test("doctor without permissions shows them as rows, and does not prompt", async () => {
  const { status, stdout, stderr } = await xenblk(["doctor", "--json"], { permissions: [] });
  const rows = JSON.parse(stdout) as { check: string; standing: string; fix?: string }[];
  assertEquals([status, stderr], [5, ""]);
  assertEquals(
    rows.find(({ check }) => check === "permission ffi")?.fix,
    "run deno with --allow-ffi, not limited to paths: pointers need it whole",
  );
  for (const { check, fix } of rows) {
    assert(!/^(run as root|boot|modprobe|start xenstored)/.test(fix ?? ""), `${check}: ${fix}`);
  }
});

Deno.test("completion scripts name every verb, and bash can read its own", async () => {
  for (const shell of ["bash", "zsh", "fish"]) {
    const { status, stdout } = await xenblk(["completion", shell]);
    assertEquals(status, 0);
    for (const { name } of CATALOG) for (const word of name.split(" ")) assertStringIncludes(stdout, word);
  }
  const { stdout } = await xenblk(["completion", "bash"]);
  const script = `${stdout}\nCOMP_WORDS=(xenblk doc); COMP_CWORD=1; _xenblk; echo "\${COMPREPLY[@]}"`;
  const bash = await new Deno.Command("bash", { args: ["-c", script] }).output();
  assertEquals(new TextDecoder().decode(bash.stdout), "doctor\n");
});

Deno.test("bash completes the second word of a verb, then its options and their values", async () => {
  const { stdout } = await xenblk(["completion", "bash"]);
  const complete = async (...words: string[]): Promise<string[]> => {
    const line = words.map((word) => `'${word}'`).join(" ");
    const script = `${stdout}\nCOMP_WORDS=(${line}); COMP_CWORD=${words.length - 1}; _xenblk; echo "\${COMPREPLY[@]}"`;
    const bash = await new Deno.Command("bash", { args: ["-c", script] }).output();
    return new TextDecoder().decode(bash.stdout).trimEnd().split(" ");
  };
  assertEquals(await complete("xenblk", "im"), ["image"]);
  assertEquals(await complete("xenblk", "image", "c"), ["create", "convert", "check"]);
  assertEquals(await complete("xenblk", "image", "check", "--rep"), ["--repair"]);
  assertEquals(await complete("xenblk", "image", "check", "--repair", "=", "a"), ["all"]);
  assertEquals(await complete("xenblk", "attach", "--over"), ["--overlay"]);
  assertEquals(await complete("xenblk", "image", "info", "c"), [""], "an operand is no second word of the verb");
});

Deno.test("completion refuses another shell with what is allowed", async () => {
  const { status, stderr } = await xenblk(["completion", "ksh"]);
  assertEquals([status, stderr], [
    2,
    "xenblk: Cannot complete for ksh: SHELL is one of bash, zsh, fish; see xenblk completion --help\n",
  ]);
});

/** Runs `xenblk <args>` in a shell, with redirections. */
async function redirected(args: string, redirection: string): Promise<{ status: number; stderr: string }> {
  const script = `"${Deno.execPath()}" run --no-prompt -A "${ROOT}cli.ts" ${args} ${redirection}`;
  const { code, stderr } = await new Deno.Command("sh", { args: ["-c", script], stdout: "null" }).output();
  return { status: code, stderr: new TextDecoder().decode(stderr) };
}

Deno.test("a full disk behind stdout or stderr is an I/O error of status 1, for every verb", async () => {
  const full = "xenblk: Cannot write to standard output: No space left on device (os error 28)\n";
  const verbs = ["completion bash", "doctor --json", "--help", "--version", "dry-run --requests 20"];
  for (const verb of verbs) {
    const { status, stderr } = await redirected(verb, ">/dev/full");
    assertEquals(stderr.includes(full), true, `${verb}: ${stderr}`);
    // The status of an earlier failure, such as missing parts of Xen, stays.
    assertEquals(status, verb.startsWith("doctor") ? (await redirected(verb, "")).status || 1 : 1, verb);
    assertEquals(stderr.includes("defect"), false, stderr);
  }
  assertEquals((await redirected("no-such-verb", "2>/dev/full")).status, 2);
});

Deno.test("a reader of stdout that goes away makes the status 1, and is nothing to report", async () => {
  const child = startXenblk(["completion", "fish"]);
  const stderr = new Response(child.stderr).text();
  await child.stdout.cancel();
  assertEquals((await child.status).code, 1);
  assertEquals(await stderr, "");
});
