/**
 * What joining modules needs to know of one: what it imports and exports, and where it speaks of its own URL. Found in
 * TypeScript's syntax tree of the emitted JavaScript.
 */

import ts from "typescript";

/** A part of a text. */
export interface Span {
  readonly start: number;
  readonly end: number;
}

/** A part that is replaced. */
export interface Edit extends Span {
  readonly text: string;
}

/** An import or an export of another module. */
export interface StaticImport {
  readonly node: ts.ImportDeclaration | ts.ExportDeclaration;
  /** The path of the file that it names; undefined for a package. */
  readonly target: string | undefined;
}

/** One module. */
export interface ModuleFacts {
  readonly text: string;
  readonly imports: readonly StaticImport[];
  /** The names that it exports. */
  readonly exports: readonly string[];
  /** Each `import.meta.url`. */
  readonly urls: readonly Span[];
  /** The specifier of each `import()` of a file. */
  readonly dynamicImports: readonly (Span & { readonly target: string })[];
}

/** In place of names, if a module exports all that another one does. */
export const ALL = "*";

/** The facts of the module at `path`, relative to the package. */
export function moduleFacts(path: string, text: string): ModuleFacts {
  const source = ts.createSourceFile(path, text, ts.ScriptTarget.ESNext, true, ts.ScriptKind.JS);
  const imports: StaticImport[] = [];
  const exports: string[] = [];
  for (const node of source.statements) {
    if (isImport(node)) {
      imports.push({ node, target: targetOf(path, node.moduleSpecifier.text) });
    }
    exports.push(...exportedBy(node));
  }
  const urls: Span[] = [];
  const dynamicImports: (Span & { target: string })[] = [];
  const visit = (node: ts.Node): void => {
    const span = { start: node.getStart(), end: node.end };
    if (ts.isPropertyAccessExpression(node) && ts.isMetaProperty(node.expression) && node.name.text === "url") {
      urls.push(span);
    }
    if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
      const [specifier] = node.arguments;
      if (specifier !== undefined && ts.isStringLiteral(specifier)) {
        const target = targetOf(path, specifier.text);
        if (target !== undefined) dynamicImports.push({ start: specifier.getStart(), end: specifier.end, target });
      }
    }
    ts.forEachChild(node, visit);
  };
  visit(source);
  return { text, imports, exports, urls, dynamicImports };
}

/** The specifier by which the module at `from` names the file `target`. */
export function relativeTo(from: string, target: string): string {
  const [own, other] = [from.split("/").slice(0, -1), target.split("/")];
  while (own.length > 0 && own[0] === other[0]) {
    own.shift();
    other.shift();
  }
  return `${own.length === 0 ? "./" : "../".repeat(own.length)}${other.join("/")}`;
}

/** The text with its parts replaced. */
export function edited(text: string, edits: readonly Edit[]): string {
  let result = text;
  for (const { start, end, text } of edits.toSorted((a, b) => b.start - a.start)) {
    result = result.slice(0, start) + text + result.slice(end);
  }
  return result;
}

type Import = (ts.ImportDeclaration | ts.ExportDeclaration) & { readonly moduleSpecifier: ts.StringLiteral };

function isImport(node: ts.Node): node is Import {
  return (ts.isImportDeclaration(node) || ts.isExportDeclaration(node)) && node.moduleSpecifier !== undefined &&
    ts.isStringLiteral(node.moduleSpecifier);
}

function targetOf(path: string, specifier: string): string | undefined {
  if (!specifier.startsWith(".")) return undefined;
  return new URL(specifier, `file:///${path}`).pathname.slice(1);
}

function exportedBy(node: ts.Statement): string[] {
  if (ts.isExportDeclaration(node)) {
    const clause = node.exportClause;
    if (clause === undefined) return [ALL];
    return ts.isNamedExports(clause) ? clause.elements.map(({ name }) => name.text) : [clause.name.text];
  }
  if (ts.isExportAssignment(node)) return ["default"];
  if (!ts.canHaveModifiers(node) || !node.modifiers?.some(({ kind }) => kind === ts.SyntaxKind.ExportKeyword)) {
    return [];
  }
  if (node.modifiers.some(({ kind }) => kind === ts.SyntaxKind.DefaultKeyword)) return ["default"];
  if (ts.isVariableStatement(node)) {
    return node.declarationList.declarations.flatMap(({ name }) => boundBy(name));
  }
  if (ts.isFunctionDeclaration(node) || ts.isClassDeclaration(node)) return node.name ? [node.name.text] : [];
  return [];
}

/** The names that a declaration binds: one, or those of its pattern. */
function boundBy(name: ts.BindingName): string[] {
  if (ts.isIdentifier(name)) return [name.text];
  return name.elements.flatMap((element) => ts.isBindingElement(element) ? boundBy(element.name) : []);
}
