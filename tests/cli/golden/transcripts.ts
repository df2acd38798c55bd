/**
 * The golden files: what a person sees of each verb, on terminals of 80 and 60 columns. `deno task golden` writes them,
 * and golden_test.ts compares.
 */

import { CATALOG } from "../../../lib/cli/catalog.ts";
import { renderFindings } from "../../../lib/cli/doctor/verb.ts";
import { ROOT } from "../../house/source.ts";
import { CASES } from "./cases.ts";
import { lacking } from "./lacking.ts";
import { Scene } from "./scene.ts";
import { TABLES } from "./tables.ts";

/** Columns of the terminals. */
export const WIDTHS = [80, 60] as const;

/** The folder of the files. */
export const FOLDER = `${ROOT}tests/cli/golden/`;

/** The content of every golden file, by its name. */
export async function transcripts(): Promise<Map<string, string>> {
  await using scene = await Scene.start();
  const files = new Map<string, string>();
  const names = [...new Set([...Object.keys(CASES), ...CATALOG.map(({ name }) => name)])];
  for (const columns of WIDTHS) {
    for (const name of names) {
      const isVerb = CATALOG.some((entry) => entry.name === name);
      const commands = [...(isVerb ? [`${name} --help`] : []), ...(CASES[name] ?? [])];
      const runs: string[] = [];
      for (const command of commands) runs.push(await scene.run(command, columns));
      files.set(fileName(name, columns), runs.join("\n"));
    }
    for (const [name, render] of Object.entries(TABLES)) files.set(fileName(`${name} table`, columns), render(columns));
    const parts = [...await lacking()].map(([part, rows]) =>
      `Without ${part}:\n${renderFindings(rows, false, columns)}`
    );
    files.set(fileName("doctor lacking", columns), parts.join("\n"));
  }
  return files;
}

function fileName(name: string, columns: number): string {
  return `${name.replaceAll(" ", "-")}.${columns}.txt`;
}

if (import.meta.main) {
  for (const { name } of Deno.readDirSync(FOLDER)) if (name.endsWith(".txt")) Deno.removeSync(FOLDER + name);
  for (const [name, text] of await transcripts()) Deno.writeTextFileSync(FOLDER + name, text);
  Deno.exit(); // threads that looked for images may still be open
}
