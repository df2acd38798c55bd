/**
 * What a person sees on a terminal of 80 and of 60 columns, verb by verb, compared with the files in golden/. `deno task
 * golden` writes these files; their difference shows what a change does to the output.
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { ROOT } from "../house/source.ts";
import { FOLDER, transcripts, WIDTHS } from "./golden/transcripts.ts";

const golden = [...Deno.readDirSync(FOLDER)].map(({ name }) => name).filter((name) => name.endsWith(".txt"));
const read = (name: string): string => Deno.readTextFileSync(FOLDER + name);

Deno.test("each verb prints what the golden files hold (else: deno task golden, and look at the difference)", async (context) => {
  const files = await transcripts();
  assertEquals(golden.toSorted(), [...files.keys()].toSorted());
  for (const [name, text] of files) await context.step(name, () => assertEquals(text, read(name)));
});

Deno.test("no line of help or of a table is wider than the terminal", () => {
  for (const name of golden) {
    const columns = WIDTHS.find((width) => name.endsWith(`.${width}.txt`))!;
    // A message is one line whatever its length, so that it can be searched for.
    const lines = read(name).split("\n").filter((line) => !/^(\$ xenblk|xenblk: |\{"error")/.test(line));
    // Nor is a long path broken: a reader copies it.
    const tooWide = lines.filter((line) => [...line].length > columns && !line.includes("department/root.img"));
    assertEquals(tooWide, [], name);
  }
});

Deno.test("a real terminal's width is asked, and a pipe gets the full width", async () => {
  const run = async (command: string): Promise<string> => {
    const { stdout } = await new Deno.Command("script", {
      args: ["-qec", `stty cols 60; ${command}`, "/dev/null"],
      env: { NO_COLOR: "1" },
      stdin: "null",
    }).output();
    return new TextDecoder().decode(stdout).replaceAll("\r\n", "\n");
  };
  const help = `${Deno.execPath()} run --no-prompt -R "${ROOT}cli.ts" image map --help`;
  const [onTerminal, piped] = await Promise.all([run(help), run(`${help} | cat`)]);
  assertStringIncludes(read("image-map.60.txt"), onTerminal);
  assertStringIncludes(read("image-map.80.txt"), piped);
  assert(onTerminal !== piped);
});
