/**
 * A user of the command downloads no package that only tests use: with a cache that holds the runtime packages alone,
 * and no network, the command runs. (Deno would otherwise download all that deno.lock names before it starts; the
 * setting npm-lazy-caching in deno.json keeps it from that.)
 */

import { assertEquals, assertStringIncludes } from "@std/assert";
import { ROOT } from "./source.ts";

const RUNTIME = ["@logtape/logtape", "deno-std"];

async function deno(args: readonly string[], cache?: string): Promise<{ code: number; output: string }> {
  const env = { NO_COLOR: "1", ...(cache === undefined ? {} : { DENO_DIR: cache }) };
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), { args: [...args], cwd: ROOT, env })
    .output();
  return { code, output: new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr) };
}

/** Copies some npm packages out of this process's own cache. */
async function copyPackages(cache: string, names: readonly string[]): Promise<void> {
  const { npmCache } = JSON.parse((await deno(["info", "--json"])).output);
  for (const { name: registry, isDirectory } of Deno.readDirSync(npmCache)) {
    if (!isDirectory) continue;
    for (const name of names) {
      const parent = `${cache}/npm/${registry}/${name}`.replace(/\/[^/]*$/, "");
      await Deno.mkdir(parent, { recursive: true });
      const copied = await new Deno.Command("cp", { args: ["-r", `${npmCache}/${registry}/${name}`, parent] }).output();
      assertEquals(copied.code, 0, name);
    }
  }
}

for (const args of [["list", "--help"], ["dry-run", "--requests", "200", "--size", "8M"]]) {
  Deno.test(`xenblk ${args[0]} needs the runtime packages only`, async () => {
    const cache = await Deno.makeTempDir();
    try {
      await copyPackages(cache, RUNTIME);
      const { code, output } = await deno(["run", "-A", "--cached-only", "cli.ts", ...args], cache);
      assertEquals(code, 0, output);
      assertStringIncludes(output, args[0] === "list" ? "Usage" : "Verified");
    } finally {
      await Deno.remove(cache, { recursive: true });
    }
  });
}

Deno.test("without a package that it needs, the command does not run", async () => {
  const cache = await Deno.makeTempDir();
  try {
    await copyPackages(cache, RUNTIME.slice(1));
    const { code, output } = await deno(["run", "-A", "--cached-only", "cli.ts", "list", "--help"], cache);
    assertEquals(code, 1);
    assertStringIncludes(output, "@logtape/logtape");
  } finally {
    await Deno.remove(cache, { recursive: true });
  }
});
