/**
 * The documents name things that exist: links, files, tasks, verbs, and the one version of Deno that the project is
 * for, which .dvmrc holds.
 */

import { assert, assertEquals, assertGreater } from "@std/assert";
import { CATALOG } from "../../lib/cli/catalog.ts";
import { ROOT, sourceFiles } from "./source.ts";

const DOCUMENTS = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs/"];

/** The version of Deno that every command and document must name. */
const DENO = Deno.readTextFileSync(ROOT + ".dvmrc").trim();

/** Paths that a document names: targets of its links, and files of the checkout in backticks. */
function namedPaths(path: string, text: string): string[] {
  const links = [...text.matchAll(/\]\(([^)#]+)\)/g)].map((match) => match[1]!).filter((target) =>
    !/^\w+:/.test(target)
  );
  const quoted = [...text.matchAll(/`((?:lib|ffi|tests|docs|bench|\.ci|\.github)\/[\w./-]+|[\w-]+\.ts)`/g)].map((
    match,
  ) => match[1]!);
  const folder = new URL(path, "file:///");
  const paths = [...links.map((link) => new URL(link, folder).pathname.slice(1)), ...quoted];
  return paths.map((named) => named.replace(/\/$/, ""));
}

/** Whether the checkout has the file or folder; a bare file name may be in any folder. */
function exists(files: readonly string[], path: string): boolean {
  return files.some((file) => file === path || file.startsWith(`${path}/`) || file.endsWith(`/${path}`));
}

Deno.test("every file and link that the documents name exists", () => {
  const files = sourceFiles();
  const documents = files.filter((file) => file.endsWith(".md") && DOCUMENTS.some((start) => file.startsWith(start)));
  assertGreater(documents.length, 5);
  const lacking = documents.flatMap((document) =>
    namedPaths(document, Deno.readTextFileSync(ROOT + document)).filter((path) => !exists(files, path))
      .map((path) => `${document} names ${path}`)
  );
  assertEquals(lacking, []);
});

/** The names by which links reach the headings of a document. */
function anchors(text: string): Set<string> {
  const headings = text.replace(/^```.*?^```$/gms, "").matchAll(/^#+ (.*)$/gm);
  return new Set([...headings].map(([, title]) => title!.toLowerCase().replace(/[^\w\- ]/g, "").replaceAll(" ", "-")));
}

Deno.test("every heading that the documents link to exists", () => {
  const documents = sourceFiles().filter((file) => file.endsWith(".md"));
  const textOf = (path: string): string => Deno.readTextFileSync(ROOT + path);
  const links = documents.flatMap((document) =>
    [...textOf(document).matchAll(/\]\(([\w./-]*\.md)?#([^)]+)\)/g)].map(([, path, anchor]) => ({
      document,
      target: path === undefined ? document : new URL(path, `file:///${document}`).pathname.slice(1),
      anchor: anchor!,
    }))
  );
  assertGreater(links.length, 5);
  assertEquals(links.filter(({ target, anchor }) => !anchors(textOf(target)).has(anchor)), []);
  assertEquals([...anchors("# A `b` c, d\n```sh\n# no\n```\n## E-f")], ["a-b-c-d", "e-f"]);
});

/** The documents below docs/ that no chain of links reaches from docs/README.md. */
function unreachable(textOf: (path: string) => string | undefined, documents: readonly string[]): string[] {
  const reached = new Set<string>();
  const visit = (path: string): void => {
    const text = reached.has(path) ? undefined : textOf(path);
    if (text === undefined) return;
    reached.add(path);
    for (const named of namedPaths(path, text)) if (named.endsWith(".md")) visit(named);
  };
  visit("docs/README.md");
  return documents.filter((path) => !reached.has(path));
}

Deno.test("every page is reached from docs/README.md, and the README leads there", () => {
  const documents = sourceFiles().filter((file) => /^docs\/.*\.md$/.test(file));
  const textOf = (path: string): string | undefined =>
    documents.includes(path) ? Deno.readTextFileSync(ROOT + path) : undefined;
  assertEquals(unreachable(textOf, documents), []);
  assert(namedPaths("README.md", Deno.readTextFileSync(`${ROOT}README.md`)).includes("docs/README.md"));
  const pages: Record<string, string> = { "docs/README.md": "[a](a.md)", "docs/a.md": "[b](b.md)", "docs/b.md": "" };
  assertEquals(unreachable((path) => pages[path], [...Object.keys(pages), "docs/c.md"]), ["docs/c.md"]);
});

/** Lines of a README that a person sees first. */
const FIRST_SCREEN = 60;

Deno.test("the code on the README's first screen fits a terminal", () => {
  const lines = Deno.readTextFileSync(`${ROOT}README.md`).split("\n").slice(0, FIRST_SCREEN);
  const isCode = lines.map((line, index) =>
    !line.startsWith("```") && lines.slice(0, index).filter((each) => each.startsWith("```")).length % 2 === 1
  );
  const code = lines.filter((_, index) => isCode[index]);
  assertGreater(code.length, 2);
  assertEquals(code.filter((line) => line.length > 80), []);
});

Deno.test("every task that the documents name exists", () => {
  const tasks = Object.keys(JSON.parse(Deno.readTextFileSync(ROOT + "deno.json")).tasks);
  const texts = sourceFiles().filter((file) => file.endsWith(".md")).map((file) => Deno.readTextFileSync(ROOT + file));
  const named = texts.flatMap((text) => [...text.matchAll(/deno(?:@[\d.]+)? task ([\w:-]+)/g)].map((m) => m[1]!));
  assertGreater(named.length, 2);
  assertEquals(named.filter((task) => !tasks.includes(task)), []);
});

/** Names of other versions of Deno than `version`: `deno@1.2.3`, "Deno 1.2.3", "`deno` 1.2.3". */
function otherVersions(text: string, version: string): string[] {
  const named = [...text.matchAll(/\bdeno(?:@|`? )(\d+\.\d+\.\d+)/gi)];
  return named.filter((match) => match[1] !== version).map((match) => match[0]);
}

Deno.test("everything that names a version of Deno names that of .dvmrc, which this is", () => {
  assertEquals(Deno.version.deno, DENO);
  // What was once measured or released names the version of its time.
  const files = sourceFiles().filter((file) => !/^(bench|tests\/bench)\/|^CHANGELOG\.md$|docs_test\.ts$/.test(file));
  const faults = files.flatMap((file) =>
    otherVersions(Deno.readTextFileSync(ROOT + file), DENO).map((named) => `${file} names ${named}`)
  );
  assertEquals(faults, []);
});

Deno.test("another version of Deno is found in any of its spellings", () => {
  const text = "npx -y deno@1.2.3 task, Deno 1.2.3, `deno` 1.2.3 and deno@2.0.0";
  assertEquals(otherVersions(text, "2.0.0"), ["deno@1.2.3", "Deno 1.2.3", "deno` 1.2.3"]);
});

Deno.test("the README's table has every verb", () => {
  const readme = Deno.readTextFileSync(ROOT + "README.md");
  assertEquals(CATALOG.filter(({ name }) => !new RegExp(`^\\| \`${name}[ \`]`, "m").test(readme)), []);
});

Deno.test("a document that names a missing file is found", () => {
  const text = "see [x](cli.md), [y](https://example.org/z), `lib/none.ts`, `mod.ts`";
  assertEquals(namedPaths("docs/testing.md", text), ["docs/cli.md", "lib/none.ts", "mod.ts"]);
  assertEquals(exists(["docs/cli.md", "mod.ts"], "lib/none.ts"), false);
  assertEquals(exists(["lib/guest/load.ts"], "lib/guest"), true);
});
