/**
 * What the house tests know of a source file: its imports, functions and uses of `any`, read from the syntax tree that
 * Deno's own linter builds (so that comments and strings can't mislead), and which files there are. It must not know
 * what is allowed.
 */

/** An import, export-from, dynamic import or import type. */
export interface ImportFact {
  readonly specifier: string;
  readonly dynamic: boolean;
  /** A dynamic import of what is only known at run time; `specifier` is its source text. */
  readonly computed: boolean;
  readonly typeOnly: boolean;
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

/** Paths, relative to the root, of the files that git tracks, or would if they were added. */
export function sourceFiles(): string[] {
  const { success, stdout, stderr } = new Deno.Command("git", {
    args: ["ls-files", "--cached", "--others", "--exclude-standard"],
    cwd: ROOT,
  }).outputSync();
  if (!success) throw new Error(`git ls-files failed: ${new TextDecoder().decode(stderr)}`);
  const paths = new TextDecoder().decode(stdout).split("\n").filter((path) => path !== "");
  return paths.filter((path) => exists(ROOT + path));
}

function exists(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
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
  const note = (source: string, kind: string): void => {
    imports.push({ specifier: source, dynamic: false, computed: false, typeOnly: kind === "type" });
  };
  const visitor: Deno.lint.LintVisitor = {
    ImportDeclaration: (node) => note(node.source.value, node.importKind),
    ExportAllDeclaration: (node) => note(node.source.value, node.exportKind),
    ExportNamedDeclaration: (node) => {
      if (node.source !== null && node.source !== undefined) note(node.source.value, node.exportKind);
    },
    ImportExpression: (node) => {
      const source = text.slice(...node.source.range);
      const literal = /^(["'])(.*)\1$/s.exec(source)?.[2];
      const computed = literal === undefined;
      imports.push({ specifier: literal ?? source, dynamic: true, computed, typeOnly: false });
    },
    TSImportType: (node) => note(/import\(\s*["']([^"']*)/.exec(text.slice(...node.range))?.[1] ?? "?", "type"),
    FunctionDeclaration: (node) => measure(node, node.id?.name ?? "(unnamed)"),
    FunctionExpression: (node) => measure(node, "(method or function expression)"),
    ArrowFunctionExpression: (node) => measure(node, "(arrow function)"),
    TSAnyKeyword: (node) => anyLines.push(lineOf(node.range[0])),
    MemberExpression: (node) => members.push(text.slice(...node.range)),
  };
  runVisitor(path, text, visitor);
  return { imports, functions, anyLines, members };
}

interface Node {
  readonly range: [number, number];
}

/** Deno's linter offers its syntax tree to plugins, and to tests by way of `runPlugin`. */
function runVisitor(path: string, text: string, visitor: Deno.lint.LintVisitor): void {
  const plugin: Deno.lint.Plugin = { name: "house", rules: { facts: { create: () => visitor } } };
  Deno.lint.runPlugin(plugin, path.replaceAll("/", "_"), text);
}
