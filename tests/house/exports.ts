/**
 * Finds exports of the product that are not used, or used by tests only. Reads each file's exports, and the names that it takes from
 * other files, from the syntax tree.
 */

import { targetOf } from "./import_rule.ts";
import { runVisitor } from "./source.ts";

/** What one file offers and takes. */
export interface NameFacts {
  readonly path: string;
  /** Names that it declares and exports. */
  readonly exported: readonly { readonly name: string; readonly isType: boolean }[];
  /** Names that it imports or re-exports, as `path#name`; `path#*` for all of a file. */
  readonly taken: readonly string[];
  /** Files that it imports by `import()` or in an import type. */
  readonly loaded: readonly string[];
  /** Words of its text, with the number of times that each is there. */
  readonly words: ReadonlyMap<string, number>;
}

/** Reads the facts of one file. */
export function readNames(path: string, text: string): NameFacts {
  const exported: { name: string; isType: boolean }[] = [];
  const taken: string[] = [];
  const loaded: string[] = [];
  const take = (source: string, name: string): void => {
    if (source.startsWith(".")) taken.push(`${targetOf(path, source)}#${name}`);
  };
  const load = (source: string | undefined): void => {
    if (source?.startsWith(".")) loaded.push(targetOf(path, source));
  };
  const quoted = (range: [number, number]): string | undefined => /["'](\.[^"']*)["']/.exec(text.slice(...range))?.[1];
  runVisitor(path, text, {
    ImportDeclaration: (node) => {
      for (const specifier of node.specifiers) {
        const imported = specifier.type === "ImportSpecifier" ? text.slice(...specifier.imported.range) : "*";
        take(node.source.value, imported);
      }
    },
    ExportAllDeclaration: (node) => take(node.source.value, "*"),
    ExportNamedDeclaration: (node) => {
      for (const { local } of node.specifiers) {
        if (node.source) take(node.source.value, text.slice(...local.range));
      }
      if (node.declaration) exported.push(...declaredNames(text.slice(...node.declaration.range)));
    },
    ImportExpression: (node) => load(quoted(node.range)),
    TSImportType: (node) => load(quoted(node.range)),
  });
  const words = new Map<string, number>();
  const code = text.replace(/\/\*.*?\*\//gs, "").replace(/\/\/.*/g, "");
  for (const [word] of code.matchAll(/[\w$]+/g)) words.set(word, (words.get(word) ?? 0) + 1);
  return { path, exported, taken, loaded, words };
}

const DECLARATION =
  /^(?:declare )?(?:abstract )?(?:(?:async )?function\*?|class|const enum|enum|const|let|interface|type) +([\w$]+|\{[^}]*\}|\[[^\]]*\])/;

function declaredNames(declaration: string): { name: string; isType: boolean }[] {
  const names = DECLARATION.exec(declaration)?.[1]?.match(/[\w$]+/g) ?? [];
  return names.map((name) => ({ name, isType: /^(declare |abstract )*(interface|type|class)\b/.test(declaration) }));
}

/** Functions that a module exports because a descriptor names it; it is imported by a computed name. */
const CALLED_BY_NAME = ["openPlatform", "openChannel", "openMemory", "filter", "openExecutor", "fileCall"];

/**
 * Exports of lib/ and ffi/, as `path#name`, that are not used: `dead` ones are used by tests at most, not even in their
 * own file; `needless` ones are used in their own file only, by no test either. What mod.ts exports is used. A type or
 * class that its own file uses may be part of a signature, and is never needless.
 */
export function uselessExports(files: readonly NameFacts[]): { readonly dead: string[]; readonly needless: string[] } {
  const inTests = (path: string): boolean => path.startsWith("tests/");
  const usedBy = users(files.filter(({ path }) => !inTests(path)));
  const usedByTests = users(files.filter(({ path }) => inTests(path)));
  const useless = files.filter(({ path }) => /^(lib|ffi)\//.test(path)).flatMap(({ path, exported, words }) =>
    exported.filter(({ name }) => !CALLED_BY_NAME.includes(name) && !usedBy(path, name)).map(({ name, isType }) => {
      return { text: `${path}#${name}`, isType, inside: words.get(name)! > 1, tested: usedByTests(path, name) };
    })
  );
  return {
    dead: useless.filter(({ inside }) => !inside).map(({ text }) => text),
    needless: useless.filter(({ inside, tested, isType }) => inside && !tested && !isType).map(({ text }) => text),
  };
}

/** Tells whether one of `files` uses an export of another file. */
function users(files: readonly NameFacts[]): (path: string, name: string) => boolean {
  const taken = new Set(files.flatMap((file) => file.taken));
  const loaders = Map.groupBy(files.flatMap((file) => file.loaded.map((to) => ({ to, file }))), ({ to }) => to);
  return (path, name) =>
    taken.has(`${path}#${name}`) || taken.has(`${path}#*`) ||
    (loaders.get(path) ?? []).some(({ file }) => file.words.has(name));
}
