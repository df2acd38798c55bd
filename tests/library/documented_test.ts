/**
 * The code in docs/library.md is true: all blocks are type-checked as a project outside the checkout, without casts; the
 * programs run, the tests pass, and each test that is to find a fault fails until the fault's lines are gone.
 */

import { assert, assertEquals } from "@std/assert";
import { ROOT } from "../house/source.ts";
import { Folder } from "./programs.ts";

const PAGE = Deno.readTextFileSync(`${ROOT}docs/library.md`);
/** Ends the lines that are a planted fault. */
const FAULT = /\/\/ the fault\b/;
/** The longest test that a page shows for a fault, in lines. */
const MOST_TEST_LINES = 19;

/** A block of code: a file. */
interface Block {
  readonly name: string;
  readonly text: string;
  /** `check`: it needs a Xen host, and is not run. */
  readonly isRun: boolean;
}

/** The blocks; one without a name in its first line gets one. */
function blocks(page: string): readonly Block[] {
  return [...page.matchAll(/^```ts( check)?\n(.*?)^```$/gms)].map(([, check, text], i) => ({
    name: /^\/\/ ([\w-]+\.ts)$/m.exec(text!)?.[1] ?? `program_${i}.ts`,
    text: text!,
    isRun: check === undefined,
  }));
}

const BLOCKS = blocks(PAGE);
const IMPORTS = { xenblk: `${ROOT}mod.ts`, "xenblk/testing": `${ROOT}testing.ts` };

/** A project with the blocks as files, and an image. */
function project(change: (text: string) => string = (text) => text): Folder {
  const files = Object.fromEntries(BLOCKS.map(({ name, text }) => [name, change(text)]));
  const folder = new Folder({ ...files, "deno.json": JSON.stringify({ imports: IMPORTS }), "disk.img": "" });
  Deno.truncateSync(`${folder.path}/disk.img`, 16 << 20);
  return folder;
}

const isTest = ({ text }: Block): boolean => /\b(Deno\.test|diskContract)\(/.test(text);
const withoutFaults = (text: string): string => text.split("\n").filter((line) => !FAULT.test(line)).join("\n");

/** The files of the planted faults, and those of tests that such a file is part of. */
const FAULTY = BLOCKS.filter(({ text }) => FAULT.test(text));
const FINDING = BLOCKS.filter((block) => isTest(block) && FAULTY.some(({ name }) => block.text.includes(`./${name}`)));

Deno.test("the page's code is whole, and needs no cast", async () => {
  assertEquals(
    BLOCKS.filter(({ text }) => / as (?!const\b)|: any\b|@ts-/.test(text.replace(/ \* .*|\/\/.*/g, ""))),
    [],
  );
  using folder = project();
  const { status, stderr } = await folder.deno("check", "--quiet", ".");
  assertEquals([status, stderr], [0, ""]);
});

Deno.test("each planted fault is found by a test of under 20 lines, which passes without it", async () => {
  assertEquals(FAULTY.length, 3);
  for (const { name } of FAULTY) {
    const [test] = FINDING.filter(({ text }) => text.includes(`./${name}`));
    assert(test !== undefined && test.text.trim().split("\n").length <= MOST_TEST_LINES, `a short test finds ${name}`);
  }
  const names = FINDING.map(({ name }) => name);
  using faulty = project();
  const { status, stdout } = await faulty.deno("test", "-A", "--no-check", ...names);
  const failed = stdout.split("\n").filter((line) => / \.\.\. FAILED/.test(line));
  const finds = FINDING.map(({ text }) => /Deno\.test\("(.*?)"/.exec(text)?.[1] ?? "survives a power failure");
  assertEquals([status, failed.length], [1, finds.length], stdout);
  assertEquals(finds.filter((title) => !failed.some((line) => line.includes(title))), []);
  using mended = project(withoutFaults);
  const passed = await mended.deno("test", "-A", "--no-check", ...names);
  assertEquals([passed.status, /\b0 failed/.test(passed.stdout)], [0, true], passed.stdout);
});

Deno.test("the page's other tests pass, and its programs run", async () => {
  using folder = project();
  const tests = BLOCKS.filter((block) => block.isRun && isTest(block) && !FINDING.includes(block));
  const { status, stdout } = await folder.deno("test", "-A", "--no-check", ...tests.map(({ name }) => name));
  assertEquals(status, 0, stdout);
  for (const { name } of BLOCKS.filter((block) => block.isRun && block.name.startsWith("program_") && !isTest(block))) {
    const { status, stderr } = await folder.deno("run", "-A", "--no-check", name);
    assertEquals([status, stderr], [0, ""], name);
  }
});
