/**
 * The Deno permissions that each verb's help names suffice: the verbs run with exactly these, read and write limited to
 * what the help says. The tasks that need no more are started with no more.
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { CATALOG } from "../../lib/cli/catalog.ts";
import { ROOT } from "../house/source.ts";
import { nativeTest, NativeXen } from "../native/harness.ts";
import { record, traceBytes } from "../trace/traces.ts";
import { type Outcome, startXenblk, xenblk } from "./command.ts";
import { testImages } from "./image/images.ts";

/** The permissions that the verb's help names for every use; read and write are limited to the paths. */
async function permissionsOf(verb: string, paths: readonly string[]): Promise<string[]> {
  const { permissions } = await CATALOG.find(({ name }) => name === verb)!.load();
  const named = permissions.slice(0, permissions.search(/; (for|to) |\.( |$)/)).match(/--allow-[\w=-]*\w/g) ?? [];
  return named.map((flag) => /^--allow-(read|write)$/.test(flag) ? `${flag}=${[ROOT, ...paths].join(",")}` : flag);
}

/** Runs the verb with these permissions. A permission that is missing would be named. */
async function runNarrow(
  args: readonly string[],
  paths: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<Outcome> {
  const verb = CATALOG.find(({ name }) => args.join(" ").startsWith(name))!.name;
  const outcome = await xenblk(args, { permissions: await permissionsOf(verb, paths), env });
  assert(!/permission|--allow-/.test(outcome.stderr), `${args.join(" ")}: ${outcome.stderr}`);
  return outcome;
}

Deno.test("the verbs that need no Xen need no more than their help names", async () => {
  const directory = await Deno.makeTempDir();
  await using undo = new AsyncDisposableStack();
  undo.defer(() => Deno.remove(directory, { recursive: true }));
  Deno.writeFileSync(`${directory}/a.trace`, traceBytes([record({ operation: 1, sector: 0, sectorCount: 8 })]));
  Deno.writeTextFileSync(`${directory}/config.toml`, "");
  const runs = [
    runNarrow(["dry-run", "--requests=50"], [directory], { TMPDIR: directory }),
    runNarrow(["completion", "bash"], []),
    runNarrow(["config", "check", `${directory}/config.toml`], [directory]),
    runNarrow(["install", "--root", directory, "--dry-run"], [directory]),
    xenblk(["replay", `${directory}/a.trace`, "memory:1M"], { permissions: [`--allow-read=${ROOT},${directory}`] }),
  ];
  for (const { status, stderr } of await Promise.all(runs)) assertEquals(status, 0, stderr);
});

testImages("the image verbs need no more than their help names", async (directory) => {
  const [one, two] = [`qcow2:${directory}/one`, `qcow2:${directory}/two`];
  for (
    const args of [
      ["image", "create", one, "1M"],
      ["image", "convert", one, two],
      ["image", "info", two],
      ["image", "check", two],
      ["image", "map", two],
    ]
  ) {
    const { status, stderr } = await runNarrow(args, [directory]);
    assertEquals(status, 0, stderr);
  }
});

nativeTest("the verbs that use Xen need no more than their help names", async () => {
  await using xen = await NativeXen.start();
  await xen.createDomain(5, "web");
  // Not below /dev, where Deno asks for all permissions.
  const directory = await Deno.makeTempDir();
  await using undo = new AsyncDisposableStack();
  undo.defer(() => Deno.remove(directory, { recursive: true }));
  const image = `${directory}/disk.img`;
  Deno.writeFileSync(image, new Uint8Array(1 << 20));
  const journals = `${directory}/journals`;
  const env = { ...xen.env(), XENBLK_JOURNAL_DIR: journals };
  const paths = [journals, image, `${image}.xenblk-snapshot`, "/etc/xenblk"];
  const nodes = { "frontend": "/local/domain/5/device/vbd/51712", "mode": "w", "params": image, "state": "1" };
  for (const [name, value] of Object.entries(nodes)) {
    await xen.run("xenstore-write", [`/local/domain/0/backend/qdisk/5/51712/${name}`, value]);
  }
  const run = async (...args: string[]): Promise<number> => (await runNarrow(args, paths, env)).status;
  const looks = await Promise.all([run("list"), run("show", "web", "xvda"), run("resize", "web", "xvda")]);
  assertEquals(looks, [0, 0, 1], "it is not Connected, so it cannot grow");
  assertEquals(await run("detach", "web", "xvda", "--timeout=1"), 0);
  assertEquals(await run("attach", "web", image, "--timeout=1"), 4, "no guest answers");
  const blind = [journals, image, "/etc/xenblk"];
  const refused = await xenblk(["attach", "web", image], { permissions: await permissionsOf("attach", blind), env });
  assertEquals(refused.status, 1);
  assertStringIncludes(
    refused.stderr,
    `Cannot look for ${image}.xenblk-snapshot, which says where an image's later writes are: Deno was started without the ` +
      `permission; run deno with --allow-read=${directory}`,
  );
  const serve = startXenblk(["serve"], { permissions: await permissionsOf("serve", paths), env });
  const stdout = new Response(serve.stdout).text();
  let said = "";
  for await (const text of serve.stderr.pipeThrough(new TextDecoderStream())) {
    if (!said.includes("serving all") && (said + text).includes("serving all")) serve.kill("SIGTERM");
    said += text;
  }
  assertEquals([(await serve.status).code, await stdout], [0, ""], said);
  assertMatch(said, /^\S+Z xenblk: serving all of kind vbd3\n\S+Z xenblk: ending: SIGTERM\n$/);
});

Deno.test("tasks that only read, and write where they say, are not given more", () => {
  const { tasks } = JSON.parse(Deno.readTextFileSync(`${ROOT}deno.json`));
  for (const name of ["dry-run", "docs", "fuzz", "sim"]) {
    assertMatch(tasks[name].command, /^deno run --allow-read /, name);
  }
});
