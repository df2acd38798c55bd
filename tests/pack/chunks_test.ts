/**
 * Joined modules: each keeps its path, its exports, its URL and its one instance; what runs in one thread only is not
 * joined.
 */

import { assertEquals, assertRejects } from "@std/assert";
import { XenblkError } from "../../lib/errors.ts";
import { joinModules } from "../../pack/chunks.ts";
import { ROOT } from "../house/source.ts";

/** A command, a Worker of it, and a module that is loaded later. */
const MODULES = {
  "cli.js": `import { count as counted } from "./lib/count.js";
import { first, here, later } from "./lib/serve.js";
export const seen = [counted(), here, (await later()).twice(), first];
`,
  "lib/serve.js": `import { count } from "./count.js";
const MINE = "serve";
export const { length, at: [first] } = { length: 1, at: ["first"] };
export const here = [count(), MINE, new URL("./worker.js", import.meta.url).href];
export const later = () => import("./late.js");
`,
  "lib/count.js": `const MINE = { counted: 0 };
export function count() { return ++MINE.counted; }
export default class Named { static self = () => Named; }
`,
  "lib/late.js": `import { count } from "./count.js";
import Named from "./count.js";
export const twice = () => [count(), count(), Named.self() === Named];
`,
  "lib/worker.js": `import { count } from "./count.js";
globalThis.started = count();
`,
};

const PROGRAMS = [
  { name: "command", entry: "cli.js", loads: ["lib/serve.js"] },
  { name: "worker", entry: "lib/worker.js", loads: [] },
];

async function joined(modules: Readonly<Record<string, string>> = MODULES): Promise<Map<string, string>> {
  const files = new Map(Object.entries(modules));
  await joinModules(files, { packages: new Map(), lock: `${ROOT}deno.lock`, programs: PROGRAMS });
  return files;
}

Deno.test("joined modules do what they did, have their own URL, and are one instance for a module that is loaded later", async () => {
  const folder = await Deno.makeTempDir();
  try {
    for (const [path, text] of await joined()) {
      await Deno.mkdir(`${folder}/${path}`.replace(/\/[^/]+$/, ""), { recursive: true });
      await Deno.writeTextFile(`${folder}/${path}`, text);
    }
    await Deno.writeTextFile(
      `${folder}/main.js`,
      `import { seen } from "./cli.js"; import { count } from "./lib/count.js"; console.log(JSON.stringify([...seen, count(), globalThis.started]));`,
    );
    const { stdout } = await new Deno.Command(Deno.execPath(), { args: ["run", "-A", `${folder}/main.js`] }).output();
    assertEquals(JSON.parse(new TextDecoder().decode(stdout)), [
      2,
      [1, "serve", `file://${folder}/lib/worker.js`],
      [3, 4, true],
      "first",
      5,
      null,
    ]);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("modules that the same programs need are one file; entries stay as they are; each run gives the same", async () => {
  const files = await joined();
  assertEquals([...files.keys()].filter((path) => path.startsWith("chunks/")).sort(), [
    "chunks/command-worker.js",
    "chunks/command.js",
    "chunks/shared-1.js",
  ]);
  assertEquals(
    files.get("lib/worker.js"),
    `import { lib_count__count as count } from "../chunks/command-worker.js";
globalThis.started = count();
`,
  );
  assertEquals(
    files.get("lib/serve.js"),
    `export { lib_serve__length as length, lib_serve__first as first, lib_serve__here as here, lib_serve__later as later } from "../chunks/command.js";\n`,
  );
  assertEquals(await joined(), files);
});

Deno.test("a program with a module that is not there, or whose names are not known, is refused", async () => {
  const { "lib/count.js": _, ...incomplete } = MODULES;
  await assertRejects(() => joined(incomplete), XenblkError, "Cannot pack lib/count.js: there is no such module");
  const starred = { ...MODULES, "lib/count.js": `export * from "./late.js";\n` };
  await assertRejects(() => joined(starred), XenblkError, "Cannot pack lib/count.js: it has an export *");
});
