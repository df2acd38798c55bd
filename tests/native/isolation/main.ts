/**
 * `deno task isolation [--only TEXT] [--save FILE] [--before FILE]`: measures the rows of the isolation table and prints
 * them, beside the figures of an earlier run that `--save` has written. Ends with 1 if a figure is beyond its bound.
 */

import { parseArgs } from "@std/cli";
import { missingFuse } from "../hanging_fs.ts";
import { missingParts } from "../harness.ts";
import { HOSTILITIES } from "./hostilities.ts";
import { type Figures, Scene } from "./scene.ts";
import { beyondBounds, formatTable, parseTable, serialise } from "./table.ts";

const parsed = parseArgs(Deno.args, { string: ["only", "save", "before"] });
const [only, save, before] = ["only", "save", "before"].map((name) => parsed[name] as string | undefined);

function say(text: string): void {
  // deno-lint-ignore no-console
  console.log(text);
}

const missing = missingParts() ?? missingFuse();
if (missing !== undefined) {
  say(`Cannot measure: ${missing}`);
  Deno.exit(1);
}
const earlier = before === undefined ? undefined : parseTable(Deno.readTextFileSync(before));
const table = new Map<string, Figures>();
const failures: string[] = [];
for (const hostility of HOSTILITIES.filter(({ name }) => name.includes(only ?? ""))) {
  try {
    const figures = await Scene.measure(hostility);
    table.set(hostility.name, figures);
    failures.push(...beyondBounds(figures, hostility).map((what) => `${hostility.name}: ${what}`));
    say(formatTable(new Map([[hostility.name, figures]])).split("\n").at(-1)!);
  } catch (error) {
    failures.push(`${hostility.name}: ${(error as Error).message}`);
    say(failures.at(-1)!);
  }
}
say(`\n${formatTable(table, earlier)}\n`);
if (save !== undefined) Deno.writeTextFileSync(save, serialise(table));
for (const failure of failures) say(failure);
Deno.exit(failures.length === 0 ? 0 : 1);
