/**
 * The commands in the README and the documents are true. Every command of xenblk is checked against the tables of the
 * verbs. Every block of commands is run here, without Xen or on a stand-in host with a guest, or the table below names
 * the test that runs it elsewhere.
 */

import { assertEquals } from "@std/assert";
import { CATALOG } from "../../lib/cli/catalog.ts";
import { ROOT, sourceFiles } from "../house/source.ts";
import { missingProgram, nativeTest } from "../native/harness.ts";
import { argumentsOf, faultOf } from "./command_line.ts";
import { HostWithWeb, Place } from "./place.ts";
import { commandsOf, inlineCommands, type ShellBlock, shellBlocks } from "./shell.ts";

const PAGES = sourceFiles()
  .filter((path) =>
    /^(README|CONTRIBUTING|ARCHITECTURE|CHANGELOG|SECURITY)\.md$|^(docs|bench|tests)\/.*\.md$/.test(path)
  )
  .map((document) => ({ document, page: Deno.readTextFileSync(ROOT + document) }));
const BLOCKS = PAGES.flatMap(({ document, page }) => shellBlocks(document, page));

/** How a block is run. */
type Run =
  /** Without Xen, in a checkout. */
  | { readonly how: "here" }
  /** On a stand-in host: the lines that serve run beside those that follow. `before` makes files, `beside` serves;
   * `instead` is a path that is not to be touched, and another.
   */
  | {
    readonly how: "on a host";
    readonly before?: string;
    readonly beside?: string;
    readonly instead?: readonly [path: string, other: string];
  }
  /** By a test that runs the same elsewhere. */
  | { readonly how: "elsewhere"; readonly by: string }
  /** It was run by hand, or never, as the document says in these words. */
  | { readonly how: "not here"; readonly says: string };

/** By document and a text that one block of it has. */
const RUNS: readonly (readonly [document: string, text: string, run: Run])[] = [
  ["README.md", "cli.ts dry-run", { how: "here" }],
  ["README.md", "task test", { how: "elsewhere", by: ".ci/run" }],
  ["README.md", "xenblk detach web xvdb", {
    how: "on a host",
    before: "truncate -s 1G disk.img; qemu-img create -q -f qcow2 web.qcow2 1G",
  }],
  ["CONTRIBUTING.md", "task test:quick", { how: "elsewhere", by: ".ci/run" }],
  ["CONTRIBUTING.md", "tests/xenbus/", { how: "elsewhere", by: ".ci/run" }],
  ["docs/deploy.md", "xenblk install --dry-run", { how: "elsewhere", by: "tests/cli/install_test.ts" }],
  ["docs/deploy.md", "XENBLK_GUEST=web", { how: "elsewhere", by: "tests/e2e/scenarios/25-systemd.sh" }],
  ["docs/packaging.md", "deno task deb dist", { how: "elsewhere", by: "tests/package/debian.ts" }],
  ["docs/packaging.md", "deno install -g", { how: "elsewhere", by: "tests/package/package_test.ts" }],
  ["docs/packaging.md", "deno compile", { how: "not here", says: "This is a recipe that has not been tested" }],
  ["docs/packaging.md", "deno task pack dist", { how: "elsewhere", by: "tests/pack/package_test.ts" }],
  ["docs/limits.md", "xenblk limit web xvdb", { how: "on a host", before: "truncate -s 64M disk.img" }],
  ["docs/plugins.md", "dry-run --write", { how: "elsewhere", by: "tests/library/plugin_test.ts" }],
  ["docs/plugins.md", "attach web 'plugin:./my_disk.ts?16'", { how: "elsewhere", by: "tests/library/plugin_test.ts" }],
  ["docs/plugins.md", "--plugin-allow", { how: "elsewhere", by: "tests/native/serve/plugin_test.ts" }],
  ["docs/backup.md", "tuesday.qcow2 --incremental", { how: "on a host" }],
  ["docs/backup.md", "qemu-img convert", { how: "on a host" }],
  ["docs/migration.md", "qemu-nbd --shared=0", { how: "elsewhere", by: "tests/docs/migration_test.ts" }],
  ["docs/migration.md", "xl migrate", { how: "elsewhere", by: "tests/docs/migration_test.ts" }],
  ["docs/migration.md", "touch web-moved", { how: "elsewhere", by: "tests/docs/migration_test.ts" }],
  ["docs/figures.md", "xenblk top --guests", { how: "elsewhere", by: "tests/native/serve/top_test.ts" }],
  ["docs/control.md", "socat", {
    how: "on a host",
    beside: "xenblk serve",
    instead: ["/run/xenblk", "$XENBLK_JOURNAL_DIR"],
  }],
  ["docs/metrics.md", "curl ", { how: "on a host" }],
  ["docs/metrics.md", "--metrics-textfile", { how: "on a host", instead: ["/var/lib/prometheus/node-exporter", "."] }],
  ["docs/metrics.md", "OTEL_SERVICE_NAME", { how: "on a host" }],
  ["docs/start.md", "apt install", { how: "elsewhere", by: "tests/package/debian.ts" }],
  ["docs/start.md", "cli.ts install", { how: "elsewhere", by: "tests/cli/install_test.ts" }],
  ["docs/start.md", "systemctl enable", { how: "elsewhere", by: "tests/native/serve/systemd_test.ts" }],
  ["docs/start.md", "xenblk doctor", { how: "on a host" }],
  ["docs/start.md", "--create 1G", { how: "on a host", beside: "xenblk serve" }],
  ["docs/start.md", "xenblk detach web xvda", { how: "on a host" }],
  ["docs/xl.md", "install -m 755 contrib/block-xenblk", { how: "elsewhere", by: "tests/e2e/scenarios/08-xl-disks.sh" }],
  ["docs/xl.md", "xl block-attach", { how: "elsewhere", by: "tests/e2e/scenarios/08-xl-disks.sh" }],
  ["docs/storage.md", "--backing qcow2:base.qcow2", { how: "on a host" }],
  ["docs/storage.md", "--overlay qcow2:base.qcow2", { how: "on a host" }],
  ["docs/storage.md", "xenblk export web xvdb", { how: "elsewhere", by: "tests/native/serve/export_test.ts" }],
  ["docs/storage.md", "image create luks:", { how: "elsewhere", by: "tests/native/serve/daemon_attach_test.ts" }],
  ["docs/storage.md", "qemu-nbd --persistent", { how: "elsewhere", by: "tests/native/serve/nbd_test.ts" }],
  ["docs/storage.md", "--filter=retry ssh", { how: "not here", says: "This was run with the server killed" }],
  ["docs/storage.md", "--filter=retry curl", { how: "not here", says: "at depth 32 on a qcow2 overlay was verified" }],
  ["docs/storage.md", "ganesha.nfsd", { how: "not here", says: "NFS and Ceph were run by hand" }],
  ["docs/storage.md", "ceph-authtool", { how: "not here", says: "NFS and Ceph were run by hand" }],
];

const runOf = ({ document, text }: ShellBlock): Run | undefined =>
  RUNS.find(([of, part]) => of === document && text.includes(part))?.[2];

Deno.test("every command of xenblk in the documents parses", async () => {
  const faults: string[] = [];
  const note = async (document: string, words: readonly string[], mention: boolean): Promise<void> => {
    const args = argumentsOf(words);
    const fault = args === undefined ? undefined : await faultOf(args, { mention });
    if (fault !== undefined) faults.push(`${document}: ${words.join(" ")}: ${fault}`);
  };
  for (const { document, text } of BLOCKS) {
    for (const words of commandsOf(text)) await note(document, words, false);
  }
  for (const { document, page } of PAGES) {
    const whole = inlineCommands(page).filter((code) => !/\bVERB\b|\.\.\.|…|\w\|\w/.test(code));
    for (const code of whole) await note(document, commandsOf(code)[0]!, true);
  }
  for (const { name, load } of CATALOG) {
    const examples = (await load()).examples.flatMap((example) => commandsOf(example));
    for (const words of examples) await note(`the help of ${name}`, words, false);
  }
  assertEquals(faults, []);
});

Deno.test("a command that does not exist, or has a wrong option or value, is found", async () => {
  const faults = async (script: string): Promise<(string | undefined)[]> =>
    await Promise.all(commandsOf(script).map((words) => faultOf(argumentsOf(words)!)));
  const [verb, option, value, operand, right] = await faults(
    "xenblk serv\nxenblk list --jsno | xenblk dry-run --depth 0 && xenblk attach # web\nxenblk attach 'web' \\\n a.img",
  );
  assertEquals(verb, 'Cannot run "serv": there is no such verb');
  assertEquals(option?.startsWith("Cannot use --jsno: list has no such option"), true);
  assertEquals(value?.startsWith("Cannot use --depth=0"), true);
  assertEquals(operand?.startsWith("Cannot run attach without DOMAIN"), true);
  assertEquals(right, undefined);
});

Deno.test("the words of a script are those of the shell", () => {
  assertEquals(commandsOf("cat >a <<END | b; c\nnot a command\nEND\nd \"e $(f 'g  h') i\" # j\n"), [
    ["cat"],
    ["b"],
    ["c"],
    ["f", "g  h"],
    ["d", "e substituted i"],
  ]);
});

Deno.test("each block of commands is run, here or by a test that exists, and the table names no other", () => {
  assertEquals(
    BLOCKS.filter((block) => runOf(block) === undefined).map(({ document, text }) => ({ document, text })),
    [],
  );
  const unused = RUNS.filter(([document, part]) =>
    !BLOCKS.some((block) => block.document === document && block.text.includes(part))
  );
  assertEquals(unused, []);
  const files = sourceFiles();
  const pageOf = (document: string): string =>
    PAGES.find((page) => page.document === document)!.page.replace(/\s+/g, " ");
  const untrue = RUNS.filter(([document, , run]) =>
    run.how === "elsewhere" && !files.includes(run.by) || run.how === "not here" && !pageOf(document).includes(run.says)
  );
  assertEquals(untrue, []);
});

for (const block of BLOCKS.filter((block) => runOf(block)?.how === "here")) {
  Deno.test(`${block.document}: ${titleOf(block)}`, async () => {
    await using place = Place.withoutXen();
    const { status, stderr } = await place.run(block.text);
    assertEquals(status, 0, stderr);
  });
}

/** What a command says once it serves, if it serves until it is ended. */
function readyOf([verb, ...options]: readonly string[]): RegExp | undefined {
  if (verb === "serve") return options.includes("--metrics") ? /metrics and status page/ : /serving all/;
  return verb === "attach" && !options.includes("--background") ? / is \w+ of web/ : undefined;
}

for (const { document } of PAGES) {
  const blocks = BLOCKS.filter((block) => block.document === document && runOf(block)?.how === "on a host");
  if (blocks.length === 0) continue;
  nativeTest(`${document}: the commands for a host work, in their order`, async (context) => {
    await using host = await HostWithWeb.start();
    await using place = Place.inDomain0(host.xen);
    for (const block of blocks) await context.step(titleOf(block), () => runOnHost(block, place));
    await endAll(place);
  }, missingProgram("qemu-storage-daemon", "qemu-system-common"));
}

/** What `doctor` ends with on the stand-in host, which has everything else. */
const NO_HYPERVISOR = 5;

async function runOnHost(block: ShellBlock, place: Place): Promise<void> {
  const run = runOf(block);
  const { before, beside, instead } = run?.how === "on a host" ? run : {};
  if (before !== undefined) await place.run(before);
  const text = instead === undefined ? block.text : block.text.replaceAll(...instead);
  const steps = /^.*xenblk (serve|attach)\b/m.test(text) ? text.trim().split(/(?<!\\)\n/) : [text];
  const lines = steps.map((line) => {
    const args = argumentsOf(commandsOf(line).at(-1) ?? []);
    return { line, args, ready: readyOf(args ?? []) };
  });
  // An example that serves a disk follows one whose disks are no longer needed.
  if (beside !== undefined || lines.some(({ ready }) => ready !== undefined)) await endAll(place);
  if (beside !== undefined) {
    await place.serve(beside, /serving all/);
    await place.reachable(1);
  }
  for (const { line, args, ready } of lines) {
    if (ready !== undefined) {
      await place.serve(line.replace(/&\s*(#.*)?$/, ""), ready);
      await place.reachable(1);
    } else {
      const { status, stdout, stderr } = await place.run(line);
      assertEquals(status, args?.[0] === "doctor" ? NO_HYPERVISOR : 0, `${line}: ${stderr}${stdout}`);
    }
  }
}

/** A command whose disk was detached is ending by itself: it may have stopped to handle INT. */
async function endAll(place: Place): Promise<void> {
  assertEquals((await place.end()).filter((status) => status !== 0 && status !== 130), []);
}

function titleOf({ text }: ShellBlock): string {
  return text.split("\n")[0]!.replace(/\s*#.*/, "");
}
