/**
 * The parts of packing: which specifiers are rewritten, what cannot be packed, and why; what JSR would take.
 */

import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import ts from "typescript";
import { XenblkError } from "../../lib/errors.ts";
import { checkVersion, manifest, readProject } from "../../pack/manifest.ts";
import { pack } from "../../pack/package.ts";
import { Specifiers } from "../../pack/specifiers.ts";
import { PROGRAMS } from "../house/loaded_modules.ts";
import { ROOT } from "../house/source.ts";

function rewritten(text: string, specifiers: Specifiers = new Specifiers({})): string {
  const compilerOptions = { target: ts.ScriptTarget.ESNext, module: ts.ModuleKind.ESNext };
  const transformers = { after: [specifiers.transformer<ts.SourceFile>()] };
  return ts.transpileModule(text, { compilerOptions, transformers, fileName: "a.ts" }).outputText.trim();
}

const REWRITTEN: readonly (readonly [string, string, string])[] = [
  ["an import", `import "./a.ts";`, `import "./a.js";`],
  ["an export", `export * from "../b.ts";`, `export * from "../b.js";`],
  ["a dynamic import", `export default import("./c.ts");`, `export default import("./c.js");`],
  [
    "a Worker's entry",
    `export default new URL("./d.ts", import.meta.url);`,
    `export default new URL("./d.js", import.meta.url);`,
  ],
  ["no folder", `export default new URL("../", import.meta.url);`, `export default new URL("../", import.meta.url);`],
  ["the manifest", `import j from "./deno.json";\nj();`, `import j from "./package.json";\nj();`],
  [
    "a file that is imported as text",
    `import t from "./page.js" with { type: "text" };\nt();`,
    `import t from "./page.js" with { type: "text" };\nt();`,
  ],
  ["a module of Node", `import "node:fs";`, `import "node:fs";`],
  [
    "no text, comment, or other URL",
    `// "./e.ts"\nexport default f("./e.ts", new URL("./e.ts", base));`,
    `// "./e.ts"\nexport default f("./e.ts", new URL("./e.ts", base));`,
  ],
];

for (const [what, text, expected] of REWRITTEN) {
  Deno.test(`packing rewrites what names a module: ${what}`, () => assertEquals(rewritten(text), expected));
}

Deno.test("packages of npm become dependencies with their exact versions", () => {
  const specifiers = new Specifiers({ "@std/cli": "npm:deno-std@1.4.0/cli/parse_args.js" });
  const text = rewritten(`import "@std/cli";\nimport "npm:@logtape/logtape@2.4.2";`, specifiers);
  assertEquals(text, `import "deno-std/cli/parse_args.js";\nimport "@logtape/logtape";`);
  const project = { version: "1.2.3", license: "MIT", exports: { ".": "./mod.ts", "./kit": "./kit.ts" }, imports: {} };
  const { dependencies, exports } = JSON.parse(manifest(project, specifiers.packages, "2.0.0"));
  assertEquals(dependencies, { "@logtape/logtape": "2.4.2", deno: "2.0.0", "deno-std": "1.4.0" });
  assertEquals(exports["./kit"], { types: "./kit.d.ts", default: "./kit.js" });
});

for (const specifier of ["npm:x", "npm:x@^1.0.0", "jsr:@a/b@1.0.0", "https://a.example/b.ts", "unknown"]) {
  Deno.test(`a specifier that no installed package resolves is refused: ${specifier}`, () => {
    const { message } = assertThrows(() => rewritten(`import "${specifier}";`), XenblkError);
    assertMatch(message, /^Cannot pack a\.ts: it imports .*, which an installed package cannot resolve$/);
  });
}

Deno.test("a module's URL that is computed is refused: its name could not be rewritten", () => {
  const text = "export default (name) => new URL(`./${name}.ts`, import.meta.url);";
  assertThrows(() => rewritten(text), XenblkError, "Cannot pack a.ts: a module's URL is not a literal");
});

Deno.test("a version without a section of the changelog is refused; this version has one", () => {
  const project = readProject(ROOT);
  const changelog = Deno.readTextFileSync(`${ROOT}CHANGELOG.md`);
  checkVersion(project, changelog);
  const { message } = assertThrows(() => checkVersion({ ...project, version: "99.0.0" }, changelog), XenblkError);
  assertMatch(message, /^Cannot pack version 99\.0\.0 of deno\.json: CHANGELOG\.md has no section \[99\.0\.0\]$/);
});

/** A small checkout, whose modules all have one text; it goes when it is disposed. */
class Checkout implements Disposable {
  readonly root = `${Deno.makeTempDirSync({ prefix: "xenblk-checkout-" })}/`;
  readonly output = `${this.root}dist`;

  constructor(text: string) {
    const named = [
      "deno.json",
      "CHANGELOG.md",
      "README.md",
      "LICENSE",
      "SECURITY.md",
      ".dvmrc",
      "deno.lock",
      "pack/launcher.ts",
    ];
    for (const folder of ["lib", "ffi", "docs", "examples", "contrib", "pack"]) Deno.mkdirSync(this.root + folder);
    for (const name of named) Deno.copyFileSync(ROOT + name, this.root + name);
    for (const name of ["cli.ts", "mod.ts", "testing.ts"]) Deno.writeTextFileSync(this.root + name, text);
    for (const name of PROGRAMS.flatMap(({ entries }) => entries)) {
      Deno.mkdirSync((this.root + name).replace(/[^/]+$/, ""), { recursive: true });
      Deno.writeTextFileSync(this.root + name, text);
    }
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.root, { recursive: true });
  }
}

Deno.test("what cannot be packed leaves the output folder as it was", async () => {
  const wrong = [[`import "jsr:@a/b@1.0.0";`, "cli.ts: it imports jsr:@a/b@1.0.0"], [
    "export const = 1;",
    "cli.ts:1: ",
  ]];
  for (const [text = "", why] of wrong) {
    using checkout = new Checkout(text);
    await assertRejects(() => pack(checkout.root, checkout.output), XenblkError, `Cannot pack ${why}`);
    assertEquals([...Deno.readDirSync(checkout.output)], []);
  }
});

Deno.test("without npm, packing says what to install", async () => {
  using checkout = new Checkout("export const a = 1;");
  const path = Deno.env.get("PATH") ?? "";
  Deno.env.set("PATH", "/nowhere");
  try {
    const { line } = await assertRejects(() => pack(checkout.root, checkout.output), XenblkError);
    assertEquals(line, "Cannot pack: there is no npm on the path; install Node.js, which has it");
  } finally {
    Deno.env.set("PATH", path);
  }
});

async function deno(...args: readonly string[]): Promise<{ status: number; output: string }> {
  const options = { args: [...args], cwd: ROOT, env: { NO_COLOR: "1" } };
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), options).output();
  return { status: code, output: new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr) };
}

Deno.test("a folder that cannot be written to, and arguments that are not expected, are refused at once", async () => {
  const folder = await deno("run", "-A", "pack/main.ts", `${ROOT}deno.json/dist`);
  assertEquals(folder.status, 1);
  assertMatch(folder.output, /^Cannot write .*deno\.json\/dist: .*; name a folder that you may write to\n$/);
  const option = await deno("run", "-A", "pack/main.ts", "--json");
  assertEquals(option, { status: 2, output: "Cannot pack: --json is not expected; usage: deno task pack [FOLDER]\n" });
});

Deno.test("JSR would take the sources: no slow types, and the product's files only", async () => {
  const { status, output } = await deno("publish", "--dry-run", "--allow-dirty", "--no-check");
  assertEquals(status, 0, output);
  const files = [...output.matchAll(/^\s+file:\/\/(\S+) \(/gm)].map((match) => match[1]!.replace(ROOT, ""));
  assert(files.includes("ffi/platform.ts"), output);
  const PRODUCT =
    /^((lib|ffi)\/.+\.ts|lib\/metrics\/page\/\w+\.(html|css|js)|\w+\.ts|deno\.json|LICENSE|README\.md|CHANGELOG\.md)$/;
  assertEquals(files.filter((path) => !PRODUCT.test(path)), []);
});
