/**
 * The programs in docs/library.md do what the page says, in a project that only has an import map: blocks marked `run`
 * and `test` are run, blocks marked `check` are only type-checked, because they need Xen.
 */

import { assert, assertEquals } from "@std/assert";
import { ROOT } from "../house/source.ts";
import { Folder } from "./programs.ts";

const PAGE = Deno.readTextFileSync(`${ROOT}docs/library.md`);

/** The page's programs, by file name. */
const PROGRAMS: Readonly<Record<string, string>> = Object.fromEntries(
  [...PAGE.matchAll(/^```ts (run|test|check)\n(.*?)^```$/gms)].map(([, kind, text], index) => {
    return [`block${index}_${kind}.ts`, text!];
  }),
);

Deno.test("the page's programs pass the type checker, and those that need no Xen run", async () => {
  const config = JSON.stringify({ imports: { "xenblk": `${ROOT}mod.ts`, "xenblk/testing": `${ROOT}testing.ts` } });
  using folder = new Folder({ "deno.json": config, ...PROGRAMS });
  const names = Object.keys(PROGRAMS);
  const of = (kind: string): string[] => names.filter((name) => name.endsWith(`_${kind}.ts`));
  assert(of("test").length >= 1 && of("run").length >= 2 && of("check").length >= 1, names.join());
  const check = await folder.deno("check", ...names);
  assertEquals(check.status, 0, check.stderr);
  for (const name of of("run")) {
    const { status, stderr } = await folder.deno("run", "-A", "--no-check", name);
    assertEquals([status, stderr], [0, ""], name);
  }
  const tested = await folder.deno("test", "-A", "--no-check", ...of("test"));
  assertEquals(tested.status, 0, tested.stdout);
});
