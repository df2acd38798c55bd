/**
 * Reads the source tree for the house tests: the list of its files, and from each file its imports, functions and uses
 * of `any`. The facts come from the syntax tree of Deno's linter, so comments and strings do not count.
 */

/** A reference to another module: an import, an export-from, an import type, or the URL of a module. */
export interface ImportFact {
  /** As written; of a computed import, the source text of its expression. */
  readonly specifier: string;
  /**
   * `url` is `new URL("./x.ts", import.meta.url)`, a Worker's entry. With `.pathname` behind it, it is the path of
   * another program, and no reference: that program shares no module with this one.
   */
  readonly kind: "static" | "type" | "dynamic" | "computed" | "url";
}

/** A function with a body, in lines of the source. */
export interface FunctionFact {
  readonly name: string;
  readonly line: number;
  readonly lineCount: number;
}

/** What {@linkcode analyse} found. */
export interface SourceFacts {
  readonly imports: readonly ImportFact[];
  readonly functions: readonly FunctionFact[];
  /** Lines with the type `any`. */
  readonly anyLines: readonly number[];
  /** `Deno.dlopen` and the like: two-part member expressions as written. */
  readonly members: readonly string[];
}

/** The checkout's root, as a path that ends with a slash. */
export const ROOT = new URL("../../", import.meta.url).pathname;

/**
 * Paths, relative to the root, of the files that git tracks, or would if they were added. Outside a git checkout, for
 * instance in an unpacked archive, the files that .gitignore does not name.
 */
export function sourceFiles(root: string = ROOT): string[] {
  const paths = exists(`${root}.git`) ? gitFiles(root) : walk(root, ignoreRules(root));
  return paths.filter((path) => exists(root + path)).sort();
}

function gitFiles(root: string): string[] {
  const { success, stdout, stderr } = new Deno.Command("git", {
    args: ["ls-files", "--cached", "--others", "--exclude-standard"],
    cwd: root,
  }).outputSync();
  if (!success) throw new Error(`git ls-files failed: ${new TextDecoder().decode(stderr)}`);
  return new TextDecoder().decode(stdout).split("\n").filter((path) => path !== "");
}

/** The lines of .gitignore as patterns for paths that start with a slash; folders end with one. */
function ignoreRules(root: string): RegExp[] {
  const lines = Deno.readTextFileSync(`${root}.gitignore`).split("\n").filter((line) => /^[^#!]/.test(line));
  return lines.map((line) => {
    const anchored = line.slice(0, -1).includes("/");
    const pattern = line.replace(/^\//, "").replace(/[.+?^${}()|[\]\\]/g, "\\$&").replaceAll("*", "[^/]*");
    return new RegExp(`${anchored ? "^/" : "/"}${pattern}${line.endsWith("/") ? "" : "/?"}$`);
  });
}

function walk(root: string, ignored: readonly RegExp[], folder = ""): string[] {
  return [...Deno.readDirSync(root + folder)].flatMap(({ name, isDirectory }) => {
    const path = `${folder}${name}${isDirectory ? "/" : ""}`;
    if (path === ".git/" || ignored.some((pattern) => pattern.test(`/${path}`))) return [];
    return isDirectory ? walk(root, ignored, path) : [path];
  });
}

function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
}

/** Reads the facts out of one file's text. */
export function analyse(path: string, text: string): SourceFacts {
  const imports: ImportFact[] = [];
  const functions: FunctionFact[] = [];
  const anyLines: number[] = [];
  const members: string[] = [];
  const lineOf = (offset: number): number => text.slice(0, offset).split("\n").length;
  const measure = (node: Node, name: string): void => {
    const line = lineOf(node.range[0]);
    functions.push({ name, line, lineCount: lineOf(node.range[1]) - line + 1 });
  };
  const note = (specifier: string, kind: ImportFact["kind"]): void => void imports.push({ specifier, kind });
  const declared = (kind: string): ImportFact["kind"] => kind === "type" ? "type" : "static";
  const visitor: Deno.lint.LintVisitor = {
    ImportDeclaration: ({ source, importKind, specifiers }) => {
      const isOfTypes = specifiers.length > 0 &&
        specifiers.every((each) => each.type === "ImportSpecifier" && each.importKind === "type");
      note(source.value, declared(isOfTypes ? "type" : importKind));
    },
    ExportAllDeclaration: (node) => note(node.source.value, declared(node.exportKind)),
    ExportNamedDeclaration: (node) => {
      if (node.source !== null && node.source !== undefined) note(node.source.value, declared(node.exportKind));
    },
    ImportExpression: (node) => {
      const source = text.slice(...node.source.range);
      const specifier = /^(["'])(.*)\1$/s.exec(source)?.[2];
      note(specifier ?? source, specifier === undefined ? "computed" : "dynamic");
    },
    TSImportType: (node) => note(/import\(\s*["']([^"']*)/.exec(text.slice(...node.range))?.[1] ?? "?", "type"),
    NewExpression: (node) => {
      const url = MODULE_URL.exec(text.slice(...node.range))?.[1];
      if (url !== undefined && !text.startsWith(".pathname", node.range[1])) note(url, "url");
    },
    FunctionDeclaration: (node) => measure(node, node.id?.name ?? "(unnamed)"),
    FunctionExpression: (node) => measure(node, "(method or function expression)"),
    ArrowFunctionExpression: (node) => measure(node, "(arrow function)"),
    TSAnyKeyword: (node) => anyLines.push(lineOf(node.range[0])),
    MemberExpression: (node) => members.push(text.slice(...node.range)),
  };
  runVisitor(path, text, visitor);
  return { imports, functions, anyLines, members };
}

const MODULE_URL = /^new URL\(\s*"(\.[^"]*\.ts)",\s*import\.meta\.url,?\s*\)$/;

interface Node {
  readonly range: [number, number];
}

/** Runs a visitor as a plugin of Deno's linter, which is possible in `deno test` only. */
export function runVisitor(path: string, text: string, visitor: Deno.lint.LintVisitor): void {
  const plugin: Deno.lint.Plugin = { name: "house", rules: { facts: { create: () => visitor } } };
  Deno.lint.runPlugin(plugin, path.replaceAll("/", "_"), text);
}

/** A TypeScript file of the checkout, read. */
export interface TypeScriptFile extends SourceFacts {
  readonly path: string;
  readonly text: string;
  readonly lineCount: number;
}

/** Every TypeScript file of the checkout, with its facts. */
export function typeScriptFiles(root: string = ROOT): TypeScriptFile[] {
  return sourceFiles(root).filter((path) => path.endsWith(".ts")).map((path) => {
    const text = Deno.readTextFileSync(root + path);
    return { path, text, lineCount: text.split("\n").length - 1, ...analyse(path, text) };
  });
}
