/**
 * The man pages: they are what the verbs' tables say, groff and mandoc find no fault in them, and their variables are
 * those that the code reads.
 */

import { assertEquals, assertStringIncludes } from "@std/assert";
import { CATALOG } from "../../lib/cli/catalog.ts";
import { ENVIRONMENT, EXIT_STATUS } from "../../pack/man/facts.ts";
import { manPages } from "../../pack/man/pages.ts";
import { sentences, verbatim } from "../../pack/man/roff.ts";
import { sourceFiles } from "../house/source.ts";

const PAGES = await manPages({ version: "1.2.3", date: "2026-11-29" });

interface Said {
  readonly stdout: string;
  readonly stderr: string;
}

/** What a program says about a page on its standard input. */
async function ask(program: string, args: readonly string[], text: string): Promise<Said> {
  const child = new Deno.Command(program, {
    args: [...args],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode(text));
  await writer.close();
  const { stdout, stderr } = await child.output();
  const decoder = new TextDecoder();
  return { stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

/** The faults that groff, which man runs, and mandoc find in a page. */
async function faults(page: string): Promise<string[]> {
  const said = [
    (await ask("groff", ["-ww", "-man", "-Tascii", "-Z"], page)).stderr,
    (await ask("mandoc", ["-T", "lint", "-W", "style"], page)).stdout,
  ];
  return said.filter((text) => text !== "");
}

/** The page as a reader sees it, without line breaks. Bold is a letter over itself, italics a letter over a line. */
async function rendered(page: string): Promise<string> {
  const { stdout } = await ask("mandoc", ["-T", "utf8", "-O", "width=200"], page);
  return stdout.split("\b").map((part, index, all) => index < all.length - 1 ? part.slice(0, -1) : part).join("")
    .replaceAll(/\s+/g, " ");
}

Deno.test("there is a page for each verb and one that names them all", () => {
  const names = CATALOG.map(({ name }) => `xenblk-${name.replaceAll(" ", "-")}`);
  assertEquals([...PAGES.keys()].sort(), [...names, "xenblk"].map((name) => `${name}.1`).sort());
  for (const name of names) assertStringIncludes(PAGES.get("xenblk.1")!, name.replaceAll("-", "\\-"));
});

Deno.test("groff and mandoc find no fault in any page", async () => {
  for (const [name, page] of PAGES) assertEquals(await faults(page), [], name);
  assertEquals((await faults(".TH X 1 2026-11-29\n.SH NAME\nx \\- y\n.NO\n")).length, 2, "both find one here");
});

Deno.test("a page says what --help says: operands, options, values, defaults, examples", async () => {
  for (const entry of CATALOG) {
    const verb = await entry.load();
    const text = await rendered(PAGES.get(`xenblk-${verb.name.replaceAll(" ", "-")}.1`)!);
    for (const operand of verb.operands) assertStringIncludes(text, `${operand.name} ${operand.help}`);
    for (const [name, option] of Object.entries(verb.options)) {
      const value = option.kind === "flag" ? "" : `=${option.placeholder}`;
      assertStringIncludes(text, `--${name}${value} ${option.help}`);
      if (option.kind === "value" && option.fallbackText !== undefined) {
        assertStringIncludes(text, `The default is ${option.fallbackText}.`);
      }
    }
    for (const example of verb.examples) assertStringIncludes(text, example.replaceAll(/\s+/g, " "));
  }
});

Deno.test("any text comes out as it went in: quotes, backslashes, signs, dots at the beginning of a line", async () => {
  const text = `.SH it's a \\fBback\\slash\\fR, a-b --c ^d ~e \`f\` "g" 'h .i`;
  const page = (lines: readonly string[]): string =>
    ['.TH X 1 "2026-11-29" "x" "x"', ".SH NAME", "x \\- y", ".SH Z", ...lines, ""].join("\n");
  assertStringIncludes(await rendered(page(sentences(text))), `Z ${text} `);
  assertStringIncludes(await rendered(page(verbatim([text, "'two"]))), `${text} 'two `);
  const long = Array(60).fill(".a 'b").join(" ");
  assertStringIncludes(await rendered(page(sentences(long))), long);
});

Deno.test("the variables in xenblk(1) are those that the code reads", () => {
  const read = new Set<string>();
  for (const path of sourceFiles().filter((path) => /^(lib|ffi|contrib)\//.test(path))) {
    const text = Deno.readTextFileSync(new URL(`../../${path}`, import.meta.url));
    // A key of an object is a field of the journal.
    const names = /\b(XENBLK_[A-Z_]+|XENSTORED_[A-Z]+|CREDENTIALS_DIRECTORY)\b(?!: )/g;
    for (const [name] of text.matchAll(names)) read.add(name);
  }
  assertEquals(ENVIRONMENT.flatMap(([names]) => names.split(", ")).sort(), [...read].sort());
});

Deno.test("the exit statuses in xenblk(1) are those of the command line's reference", () => {
  const table = Deno.readTextFileSync(new URL("../../docs/cli.md", import.meta.url));
  const statuses = [...table.matchAll(/^\| (\d[\d, ]*?) +\|/gm)].map((match) => match[1]);
  assertEquals(EXIT_STATUS.map(([status]) => status), statuses);
});
