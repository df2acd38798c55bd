/**
 * Module specifiers of the package. The checkout names TypeScript files, and npm packages by aliases of its import map;
 * an installed package holds JavaScript and finds packages in node_modules. The specifiers are found in TypeScript's
 * syntax tree, so text in comments and strings does not count.
 */

import ts from "typescript";
import { XenblkError } from "../lib/errors.ts";

/** npm packages that the code imports: exact version by name. */
export type Packages = Map<string, string>;

/** `npm:NAME@VERSION/FILE`, where the name may have a scope and the file may be absent. */
const NPM = /^npm:\/?((?:@[^/@]+\/)?[^/@]+)@(\d[^/]*)(\/.+)?$/;

/** Rewrites specifiers, and collects the packages that they name. */
export class Specifiers {
  readonly packages: Packages = new Map();
  readonly #aliases: Readonly<Record<string, string>>;

  /** `aliases` is the import map of deno.json. */
  constructor(aliases: Readonly<Record<string, string>>) {
    this.#aliases = aliases;
  }

  /** The specifier in the package. Throws {@linkcode XenblkError} if an installed package could not resolve it. */
  rewrite(specifier: string, path: string): string {
    if (specifier.startsWith("node:")) return specifier;
    // The manifest of the package has the version too.
    if (specifier === "./deno.json") return "./package.json";
    if (/^\.\.?\/.*\.ts$/.test(specifier)) return specifier.replace(/\.ts$/, ".js");
    // Imported as text: the package has the file as it is.
    if (/^\.\.?\/.*\.(html|css|js)$/.test(specifier)) return specifier;
    const [, name, version, file = ""] = NPM.exec(this.#aliases[specifier] ?? specifier) ?? [];
    if (name === undefined || version === undefined) {
      throw cannotPack(path, `it imports ${specifier}, which an installed package cannot resolve`);
    }
    this.packages.set(name, version);
    return name + file;
  }

  /** A transformer for TypeScript's emitter, of JavaScript and of declarations. */
  transformer<T extends ts.SourceFile | ts.Bundle>(): ts.TransformerFactory<T> {
    return (context) => (root) => {
      const { rootDir = "" } = context.getCompilerOptions();
      const path = ts.isSourceFile(root) ? root.fileName.replace(rootDir, "") : "";
      const visit = (node: ts.Node): ts.Node => this.#replaced(ts.visitEachChild(node, visit, context), path, context);
      return ts.visitEachChild(root, visit, context);
    };
  }

  #replaced(node: ts.Node, path: string, { factory }: ts.TransformationContext): ts.Node {
    const literal = (text: string): ts.StringLiteral => factory.createStringLiteral(this.rewrite(text, path));
    if (ts.isImportDeclaration(node) && ts.isStringLiteral(node.moduleSpecifier)) {
      const { modifiers, importClause, moduleSpecifier, attributes } = node;
      return factory.updateImportDeclaration(node, modifiers, importClause, literal(moduleSpecifier.text), attributes);
    }
    if (
      ts.isExportDeclaration(node) && node.moduleSpecifier !== undefined && ts.isStringLiteral(node.moduleSpecifier)
    ) {
      const { modifiers, isTypeOnly, exportClause, moduleSpecifier, attributes } = node;
      const specifier = literal(moduleSpecifier.text);
      return factory.updateExportDeclaration(node, modifiers, isTypeOnly, exportClause, specifier, attributes);
    }
    if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument) && ts.isStringLiteral(node.argument.literal)) {
      const { argument, attributes, qualifier, typeArguments, isTypeOf } = node;
      const target = factory.updateLiteralTypeNode(argument, literal(node.argument.literal.text));
      return factory.updateImportTypeNode(node, target, attributes, qualifier, typeArguments, isTypeOf);
    }
    const [first, ...rest] = ts.isCallExpression(node) || ts.isNewExpression(node) ? node.arguments ?? [] : [];
    if (first === undefined) return node;
    if (!ts.isStringLiteral(first)) {
      if (ts.isNewExpression(node) && isModuleUrl(node)) throw cannotPack(path, "a module's URL is not a literal");
      return node;
    }
    if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
      return factory.updateCallExpression(node, node.expression, node.typeArguments, [literal(first.text), ...rest]);
    }
    if (ts.isNewExpression(node) && first.text.endsWith(".ts") && isModuleUrl(node)) {
      return factory.updateNewExpression(node, node.expression, node.typeArguments, [literal(first.text), ...rest]);
    }
    return node;
  }
}

/** Whether it is `new URL(..., import.meta.url)`: of a Worker's entry, or of a module that a descriptor names. */
function isModuleUrl({ expression, arguments: [, base] = ts.factory.createNodeArray() }: ts.NewExpression): boolean {
  return ts.isIdentifier(expression) && expression.text === "URL" && base !== undefined &&
    ts.isPropertyAccessExpression(base) && base.name.text === "url" && ts.isMetaProperty(base.expression);
}

function cannotPack(path: string, why: string): XenblkError {
  return new XenblkError(`Cannot pack ${path}: ${why}`, {
    remedy: 'name a .ts file by "./" and its path, a node: module, or an npm package with an exact version',
  });
}
