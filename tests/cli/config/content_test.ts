/**
 * A configuration file: each fault with its line and what to do, which settings hold for a disk, and that the command
 * line takes precedence.
 */

import { assertEquals, assertMatch, assertRejects, assertStringIncludes } from "@std/assert";
import type { DiskIdentity } from "../../../lib/backend/disk_identity.ts";
import { parseArguments } from "../../../lib/cli/args.ts";
import { readContent } from "../../../lib/cli/config/content.ts";
import { faultText } from "../../../lib/cli/config/fault.ts";
import { Config, loadConfig, readConfig } from "../../../lib/cli/config/file.ts";
import { SERVE_OPTIONS } from "../../../lib/cli/serve_options.ts";
import { XenblkError } from "../../../lib/errors.ts";
import { ROOT } from "../../house/source.ts";
import { EXAMPLE, example, PAGE, page } from "./example.ts";

/** A file in memory. */
async function config(text: string): Promise<Config> {
  const content = await readContent(text);
  assertEquals(content.faults, []);
  return new Config({ path: "c.toml", ...content });
}

/** A command line of `serve`. */
function given(...args: string[]): { options: ReturnType<typeof parse>["options"]; given: ReadonlySet<string> } {
  return parse(args);
}

function parse(args: readonly string[]): ReturnType<typeof parseArguments<typeof SERVE_OPTIONS>> {
  return parseArguments({ name: "serve", operands: [], options: SERVE_OPTIONS }, args);
}

const WEB: DiskIdentity = {
  kind: "vbd3",
  domain: 5 as NonNullable<DiskIdentity["domain"]>,
  domainName: "web-1",
  domainUuid: "11111111-2222-3333-4444-555555555555",
  vdev: 51712,
  image: "qcow2:/srv/web/root.qcow2",
};

Deno.test("every fault of a file is found at once, each with its line, the reason and what to do", async () => {
  const { faults } = await readContent(`workers = 3
[serve]
engine = "zip"
cahce = "none"
max_ring_page_order = 2
image = "/a.img"
workers = 999
no-journal = "yes"
filter = ["throttle,iop=5"]
timeout = 1979-05-27

[[disk]]
cache = "none"

[[disk]]
domian = "web"
workers = 3
vdev = "nosuch!"
allow-image = ["/a", true]
[server]
`);
  assertEquals(faults.map((fault) => faultText("f", fault)), [
    'f:1: Cannot use "workers": a file has the tables [serve] and [[disk]]; put it below [serve] or [[disk]]',
    'f:3: Cannot use engine = "zip" in [serve]: it takes one of auto, uring, file, qemu, memory, null; correct the value',
    'f:4: Cannot use "cahce" in [serve]: there is no such key, did you mean cache; ' +
    "correct or remove it; docs/config.md has the keys of [serve]",
    'f:5: Cannot use "max_ring_page_order" in [serve]: there is no such key, did you mean max-ring-page-order; ' +
    "correct or remove it; docs/config.md has the keys of [serve]",
    'f:6: Cannot use "image" in [serve]: it belongs to one call of serve; give --image on the command line',
    "f:7: Cannot use workers = 999 in [serve]: it takes a whole number from 1 to 64; correct the value",
    'f:8: Cannot use no-journal = "yes" in [serve]: it takes true or false; correct the value',
    "f:9: Cannot use filter throttle: it has no option iop; it has iops, iops-burst, bytes-per-second, bytes-burst, " +
    "read-iops, write-iops, read-bytes-per-second, write-bytes-per-second; correct the filter",
    "f:10: Cannot use timeout = 1979-05-27 in [serve]: it takes a whole number from 1 to 86400; correct the value",
    "f:12: Cannot use a [[disk]] without domain, vdev, image or kind: it names no disk; " +
    "add one of them, or put the settings into [serve], which is for all disks",
    'f:16: Cannot use "domian" in [[disk]]: there is no such key, did you mean domain; correct or remove it',
    'f:17: Cannot use "workers" in [[disk]]: it concerns the whole process, not one disk; put it into [serve]',
    "f:18: Cannot use vdev in [[disk]]: it takes a virtual device, such as xvda, or a list of them; correct the value",
    "f:19: Cannot use allow-image = true in [[disk]]: it takes a list, each a text that is not empty; correct the value",
    'f:20: Cannot use "server": a file has the tables [serve] and [[disk]], did you mean [serve]; correct or remove it',
  ]);
});

Deno.test("what is no TOML is one fault with its line", async () => {
  for (
    const text of ["[serve]\nengine = \n", "[serve]\nworkers = 1\nworkers = 2\n", "\n\n[serve\n", "[serve]\n[serve]\n"]
  ) {
    const { faults } = await readContent(text);
    assertEquals(faults.length, 1, text);
    assertStringIncludes(faults[0]!.message, "Cannot read this as TOML: ");
  }
  assertEquals((await readContent("[serve]\nengine = \n")).faults[0]!.line, 2);
});

Deno.test("a value that is missing at the end, or is nested too deeply, is a fault with its line", async () => {
  const cases: readonly (readonly [text: string, line: number, what: RegExp])[] = [
    ["kind =", 1, /unspecified values/],
    ["[serve]\nkind = ", 2, /unspecified values/],
    [`[serve]\nfilter = ${"[".repeat(3000)}${"]".repeat(3000)}`, 1, /nested too deeply/],
    [`[serve]\nfilter = ${"[".repeat(100_000)}${"]".repeat(100_000)}`, 1, /nested too deeply/],
    [`[serve]\nkind = "${"x".repeat(900_000)}"`, 1, /a text in it is too long/],
  ];
  for (const [text, line, what] of cases) {
    const { faults } = await readContent(text);
    assertEquals(faults.map((fault) => fault.line), [line], text.slice(0, 40));
    assertMatch(faults[0]!.message, what);
  }
});

Deno.test("the command line precedes [[disk]], which precedes [serve], which precedes the defaults", async () => {
  const file = await config(`
[serve]
engine = "file"
queues = 2
cache = "unsafe"
read-only = true
[[disk]]
domain = "web-*"
cache = "none"
queues = 3
read-only = false
`);
  const command = given("--queues", "1");
  const rule = file.rule(command)!;
  const { maxQueues, cache, engine, grants, readOnly } = rule(WEB);
  assertEquals([maxQueues, cache, engine, grants, readOnly], [1, "none", "file", "auto", false]);
  const other = rule({ ...WEB, domainName: "db" });
  assertEquals([other.maxQueues, other.cache, other.readOnly], [1, "unsafe", true]);
  const merged = file.forServe(command);
  assertEquals([merged.queues, merged.engine, merged.grants], [1, "file", "auto"]);
  assertEquals((await config("")).rule(command), undefined);
});

Deno.test("limits are keys of the file: each counts for itself", async () => {
  const file = await config(`
[serve]
iops = 700
bytes-per-second = "10M"
[[disk]]
domain = "web-*"
iops = 50
iops-burst = 80
`);
  const rule = file.rule(given())!;
  assertEquals(rule(WEB).limits, { iops: 50, iopsBurst: 80, bytesPerSecond: 10 * 2 ** 20 });
  assertEquals(rule({ ...WEB, domainName: "db" }).limits, { iops: 700, bytesPerSecond: 10 * 2 ** 20 });
  assertEquals((await config('[[disk]]\nkind = "vbd3"\n')).rule(given())!(WEB).limits, undefined);
});

Deno.test("all rules that match a disk apply, key by key, and of two the later one counts", async () => {
  const file = await config(`
disk = [{ kind = "vbd3", cache = "none", queues = 1 }, { vdev = "xvda", cache = "writeback" }]
`);
  const { cache, maxQueues } = file.rule(given())!(WEB);
  assertEquals([cache, maxQueues], ["writeback", 1]);
});

Deno.test("a rule names disks by domain, virtual device, image and kind, and all of its keys must match", async () => {
  const isMeant = async (naming: string, disk: DiskIdentity = WEB): Promise<boolean> => {
    const file = await config(`[[disk]]\n${naming}\nqueues = 7\n`);
    return file.forDisk("queues", disk) !== undefined;
  };
  const matching = [
    'domain = "web-1"',
    'domain = "w*"',
    "domain = 5",
    `domain = "${WEB.domainUuid!.toUpperCase()}"`,
    'domain = ["db", "web-*"]',
    'vdev = "xvda"',
    "vdev = 51712",
    'vdev = ["xvdb", "xvda"]',
    'image = "/srv/web/*"',
    'image = "/srv/**"',
    'image = "qcow2:**"',
    'kind = "vbd3"',
    'kind = "vbd3"\ndomain = "web-1"\nvdev = "xvda"\nimage = "**.qcow2"',
  ];
  const others = [
    'domain = "web"',
    'domain = "1111*"',
    "domain = 51712",
    'vdev = "xvdb"',
    'image = "/srv/*"',
    'kind = "qdisk"',
    'domain = "web-1"\nvdev = "xvdb"',
  ];
  assertEquals(await Promise.all(matching.map((naming) => isMeant(naming))), matching.map(() => true));
  assertEquals(await Promise.all(others.map((naming) => isMeant(naming))), others.map(() => false));
  // A driver domain may not read a guest's name, and an image or a virtual device may not be known yet.
  const unknown = await Promise.all(matching.slice(0, -2).map((naming) => isMeant(naming, { kind: "vbd3" })));
  assertEquals(unknown, matching.slice(0, -2).map(() => false));
});

Deno.test("attach takes the settings of its disk, and of [serve] what it has as an option", async () => {
  const file = await config(`
[serve]
engine = "file"
kind = "mine"
detach-on-exit = true
[[disk]]
domain = "web-1"
cache = "none"
`);
  const { options, given: names } = given();
  const { engine, cache, kind, "detach-on-exit": detaches } = file.forAttach({ options, given: names }, WEB);
  assertEquals([engine, cache, kind, detaches], ["file", "none", "mine", false]);
});

Deno.test("the file that is missing, no file, too large or not text: what, which and why", async () => {
  const directory = await Deno.makeTempDir();
  using _directory = { [Symbol.dispose]: () => Deno.removeSync(directory, { recursive: true }) };
  const [bytes, large, wrong] = ["bytes", "large", "wrong"].map((name) => `${directory}/${name}`) as [
    string,
    string,
    string,
  ];
  Deno.writeFileSync(bytes, new Uint8Array([0xff, 0xfe]));
  Deno.writeTextFileSync(large, "#".repeat(2 ** 20 + 1));
  Deno.writeTextFileSync(wrong, "[serve]\nx = 1\ny = 2\n");
  const complaint = async (path: string): Promise<string> =>
    (await assertRejects(() => loadConfig("serve", { config: path, "no-config": false }), XenblkError)).line;
  assertEquals(
    await complaint(`${directory}/none`),
    `Cannot read configuration ${directory}/none: there is no such file; create it, or name another one`,
  );
  assertStringIncludes(await complaint(directory), "it is not a regular file");
  assertStringIncludes(await complaint(large), "it has 1048577 bytes");
  assertStringIncludes(await complaint(bytes), "it is not UTF-8");
  const line = await complaint(wrong);
  assertStringIncludes(line, `${wrong}:2: Cannot use "x" in [serve]: there is no such key`);
  assertStringIncludes(line, `\`xenblk config check ${wrong}\` shows 1 more`);
  // After this status systemd does not start xenblk.service again.
  for (const without of [true, false]) {
    const load = (): Promise<Config> => loadConfig("serve", { config: wrong, "no-config": without });
    assertEquals((await assertRejects(load, XenblkError)).exitStatus, 2);
  }
});

Deno.test("contrib/config.toml and docs/config.md are up to date (else: deno task docs)", () => {
  const [file, shown] = [EXAMPLE, PAGE].map((path) => Deno.readTextFileSync(ROOT + path)) as [string, string];
  assertEquals(file, example());
  assertEquals(shown, page(shown));
});

Deno.test("every line of contrib/config.toml is a default: as it is, and uncommented, it changes nothing", async () => {
  const asItIs = (await readConfig(ROOT + EXAMPLE, true))!;
  assertEquals([asItIs.faults, asItIs.disks, [...asItIs.serve]], [[], [], []]);
  const [serve, disk] = example().split(/^(?=#\[\[disk\]\]$)/m) as [string, string];
  const uncommented = await config(serve.replaceAll(/^#(?=[a-z-]+ = [^<])/gm, ""));
  const { options } = given();
  const values = ({ workers: _workers, ...others }: typeof options): unknown => others;
  assertEquals(values(uncommented.forServe({ options, given: new Set() })), values(options));
  const rule = await readContent(disk.replaceAll(/^#(?! )/gm, ""));
  assertEquals([rule.faults, rule.disks.length], [[], 1]);
});
