/**
 * Joins the modules of a program of the bench into one, as the packages join those of the product: V8 looks up each name
 * that one module imports from another anew, and a loop over a ring has many.
 */

import { XenblkError } from "../lib/errors.ts";

const BENCH = new URL("./", import.meta.url).pathname;

/** Writes the joined modules of bench/ into a directory, each under its own name. They find each other there. */
export async function joinModules(names: readonly string[], directory: string): Promise<void> {
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["bundle", "--quiet", "--platform", "deno", "--outdir", directory, ...names.map((name) => BENCH + name)],
    stdin: "null",
    stdout: "null",
  }).output();
  if (!success) {
    throw new XenblkError(`Cannot join modules: deno bundle failed: ${new TextDecoder().decode(stderr).trim()}`);
  }
  for (const name of names) await Deno.rename(`${directory}/${name.replace(/ts$/, "js")}`, `${directory}/${name}`);
}
