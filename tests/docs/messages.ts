/**
 * Collects from the sources what a person may read when something fails: each error with its remedy, and each finding
 * of `doctor` with its fix. It reads the syntax tree, so a new message needs no entry anywhere.
 */

import ts from "typescript";
import { ROOT, sourceFiles } from "../house/source.ts";

/** A message and what to do about it. A part that is known only when the program runs is `…`. */
export interface Message {
  /** Path of the source file. */
  readonly file: string;
  /** What failed and why; the reason alone if the sentence begins elsewhere. */
  readonly text: string;
  readonly remedy: string;
  /** Of a finding: the name of the check. */
  readonly check?: string;
}

/** The names under which sources write a message, and those under which they write what to do. */
const TEXTS = ["message", "why", "reason", "detail"];
const REMEDIES = ["remedy", "fix"];

/** Every message of the product that has a remedy, in the order of the files. */
export function messages(): Message[] {
  const files = sourceFiles().filter((path) => /^(lib|ffi)\/.*\.ts$/.test(path) && !path.startsWith("lib/testing/"));
  const found = files.flatMap((file) => messagesOf(file, Deno.readTextFileSync(ROOT + file)));
  const seen = new Set<string>();
  return found.filter(({ text, remedy, check }) => {
    const key = [check, text, remedy].join("\n");
    const isNew = !seen.has(key);
    seen.add(key);
    return isNew;
  });
}

/** The messages of one file. */
export function messagesOf(file: string, source: string): Message[] {
  const tree = ts.createSourceFile(file, source, ts.ScriptTarget.Latest, true);
  const found: Message[] = [];
  const note = (text: ts.Node | undefined, remedy: ts.Node | undefined, check?: ts.Node): void => {
    if (text === undefined || remedy === undefined) return;
    const [texts, remedies] = [wordings(text), wordings(remedy)];
    for (const [index, words] of texts.entries()) {
      const advice = remedies.length === texts.length ? remedies[index]! : alternatives(remedies);
      const name = check === undefined ? undefined : wordings(check)[0];
      if (/[a-z]{3}/.test(words) && /[a-z]{2}/.test(advice)) {
        found.push({ file, text: words, remedy: advice, ...(name === undefined ? {} : { check: name }) });
      }
    }
  };
  const helpers = complaintHelpers(tree);
  const visit = (node: ts.Node): void => {
    if (ts.isNewExpression(node)) {
      const [text, options] = node.arguments ?? [];
      if (options !== undefined && ts.isObjectLiteralExpression(options)) note(text, property(options, REMEDIES));
    } else if (ts.isObjectLiteralExpression(node)) {
      note(property(node, TEXTS), property(node, REMEDIES), property(node, ["check"]) ?? valueInScope(node, "check"));
    } else if (ts.isCallExpression(node)) {
      const helper = helpers.get(node.expression.getText(tree).replace(/^this\./, ""));
      if (helper !== undefined) {
        note(node.arguments[helper.text], node.arguments[helper.remedy], valueInScope(node, "check"));
      }
    }
    ts.forEachChild(node, visit);
  };
  visit(tree);
  return found;
}

/** Functions of a file that take a reason and a remedy, by name, with the positions of both. */
function complaintHelpers(tree: ts.SourceFile): Map<string, { readonly text: number; readonly remedy: number }> {
  const helpers = new Map<string, { text: number; remedy: number }>();
  const visit = (node: ts.Node): void => {
    if (ts.isFunctionLike(node)) {
      const names = node.parameters.map((parameter) => parameter.name.getText(tree));
      const text = names.findIndex((name) => TEXTS.includes(name));
      const remedy = names.findIndex((name) => REMEDIES.includes(name));
      const named = ts.isVariableDeclaration(node.parent) ? node.parent.name : node.name;
      if (text >= 0 && remedy >= 0 && named !== undefined) helpers.set(named.getText(tree), { text, remedy });
    }
    ts.forEachChild(node, visit);
  };
  visit(tree);
  return helpers;
}

/** The value of the first of these properties; a spread object counts, too: `...(x ? {} : { fix })`. */
function property(object: ts.ObjectLiteralExpression, names: readonly string[]): ts.Node | undefined {
  for (const member of object.properties) {
    if (ts.isPropertyAssignment(member) && names.includes(member.name.getText())) return member.initializer;
    if (ts.isShorthandPropertyAssignment(member) && names.includes(member.name.text)) return member.name;
    if (ts.isSpreadAssignment(member)) {
      const inner = spreadObjects(member.expression).map((each) => property(each, names)).find((each) => each);
      if (inner !== undefined) return inner;
    }
  }
  return undefined;
}

function spreadObjects(node: ts.Expression): ts.ObjectLiteralExpression[] {
  if (ts.isParenthesizedExpression(node)) return spreadObjects(node.expression);
  if (ts.isConditionalExpression(node)) return [...spreadObjects(node.whenTrue), ...spreadObjects(node.whenFalse)];
  return ts.isObjectLiteralExpression(node) ? [node] : [];
}

/** The texts that an expression can have: one, or those of both branches of a condition. */
function wordings(node: ts.Node): string[] {
  if (ts.isStringLiteralLike(node)) return [node.text];
  if (ts.isParenthesizedExpression(node)) return wordings(node.expression);
  if (ts.isConditionalExpression(node)) return [...wordings(node.whenTrue), ...wordings(node.whenFalse)];
  if (ts.isTemplateExpression(node)) {
    const spans = node.templateSpans.map(({ expression, literal }) => partOf(expression) + literal.text);
    return [node.head.text + spans.join("")];
  }
  if (ts.isBinaryExpression(node) && node.operatorToken.kind === ts.SyntaxKind.PlusToken) {
    return [partOf(node.left) + partOf(node.right)];
  }
  const value = ts.isIdentifier(node) ? valueInScope(node, node.text) : undefined;
  return value === undefined ? ["…"] : wordings(value);
}

/** One of several remedies, of which none is known to fit. */
function alternatives(remedies: readonly string[]): string {
  return [...new Set(remedies)].filter((remedy) => remedy !== "…").join("; or ");
}

/** A part of a sentence: its text, or the texts that it can be. */
function partOf(node: ts.Node): string {
  const words = wordings(node);
  return words.some((each) => each === "" || each.includes("…"))
    ? words.length === 1 ? words[0]! : "…"
    : words.join(" or ");
}

/** The initializer of a constant that is in scope at a node. */
function valueInScope(node: ts.Node, name: string): ts.Expression | undefined {
  for (let scope: ts.Node | undefined = node.parent; scope !== undefined; scope = scope.parent) {
    if (ts.isFunctionLike(scope) && scope.parameters.some((parameter) => parameter.name.getText() === name)) return;
    if (!ts.isBlock(scope) && !ts.isSourceFile(scope) && !ts.isCaseClause(scope)) continue;
    const declared = scope.statements.filter(ts.isVariableStatement).flatMap((each) => [
      ...each.declarationList.declarations,
    ]).find((each) => each.name.getText() === name);
    if (declared !== undefined) return declared.initializer;
  }
  return undefined;
}
