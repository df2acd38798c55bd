/**
 * `config check` and `config show` as commands, with no more permissions than their help names.
 */

import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { xenblk } from "../command.ts";

/** A folder with a file, and the permission to read it. */
function withFile(text: string): { readonly path: string; readonly permissions: readonly string[] } & Disposable {
  const folder = Deno.makeTempDirSync();
  const path = `${folder}/config.toml`;
  Deno.writeTextFileSync(path, text);
  const dispose = (): void => Deno.removeSync(folder, { recursive: true });
  return { path, permissions: [`--allow-read=${path}`], [Symbol.dispose]: dispose };
}

Deno.test("config check ends with 0 or 1, and prints all faults, as lines or as JSON", async () => {
  using wrong = withFile('[serve]\nengine = "zip"\n\n[[disk]]\nvdev = "xvda"\nqueue = 3\n');
  using right = withFile('[serve]\nqueues = 2\n[[disk]]\nvdev = "xvda"\nqueues = 3\n');
  const [lines, json, fine] = await Promise.all([
    xenblk(["config", "check", wrong.path], wrong),
    xenblk(["config", "check", wrong.path, "--json"], wrong),
    xenblk(["config", "check", right.path], right),
  ]);
  assertEquals([lines.status, lines.stderr], [1, ""]);
  assertEquals(lines.stdout.split("\n").map((line) => line.replace(wrong.path, "F").slice(0, 34)), [
    'F:2: Cannot use engine = "zip" in ',
    'F:6: Cannot use "queue" in [[disk]',
    "",
  ]);
  const report = JSON.parse(json.stdout);
  assertEquals([json.status, report.file], [1, wrong.path]);
  assertEquals(report.faults.map(({ line }: { line: number }) => line), [2, 6]);
  assertStringIncludes(report.faults[1].message, "did you mean queues");
  assertEquals([fine.status, fine.stdout], [0, ""]);
  assertStringIncludes(fine.stderr, "has no faults, and 1 rule for disks");
});

Deno.test("config show names the source of each value: an option, a line of the file, or the default", async () => {
  using file = withFile(
    '[serve]\nqueues = 2\ncache = "none"\n[[disk]]\ndomain = "web*"\nqueues = 3\nfilter = ["readonly"]\n',
  );
  const show = async (...args: string[]): Promise<Record<string, [string, string]>> => {
    const command = ["config", "show", ...args, "--config", file.path, "--json"];
    const { stdout } = await xenblk(command, { permissions: ["--allow-env", "--allow-ffi", ...file.permissions] });
    const values: { key: string; value: string; from: string }[] = JSON.parse(stdout);
    return Object.fromEntries(values.map(({ key, value, from }) => [key, [value, from.replace(file.path, "F")]]));
  };
  const [all, disk, other] = await Promise.all([
    show("--workers", "3"),
    show("web-1", "xvda", "--cache", "unsafe"),
    show("db", "xvda"),
  ]);
  assertEquals([all["queues"], all["cache"], all["workers"], all["grants"]], [
    ["2", "F:2"],
    ["none", "F:3"],
    ["3", "option"],
    ["auto", "default"],
  ]);
  assertEquals([disk["queues"], disk["cache"], disk["filter"], disk["workers"]], [
    ["3", "F:6"],
    ["unsafe", "option"],
    ['["readonly"]', "F:7"],
    undefined,
  ]);
  assertEquals([other["queues"], other["filter"]], [["2", "F:2"], ["[]", "default"]]);
});

Deno.test("without the permission to look for the usual file, config show says so and goes on", async () => {
  const { status, stdout, stderr } = await xenblk(["config", "show"], { permissions: [] });
  assertEquals(status, 0);
  assertMatch(stdout, /^engine +auto +default$/m);
  assertMatch(stderr, /cannot look for \/etc\/xenblk\/config\.toml, .* run deno with --allow-read=/);
});
