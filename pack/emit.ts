/**
 * Emits the package's JavaScript and type declarations from the checkout's TypeScript, in memory. TypeScript's own
 * emitter does it: `deno pack` follows imports alone, so it leaves out the Workers and the command.
 */

import ts from "typescript";
import { XenblkError } from "../lib/errors.ts";
import type { Specifiers } from "./specifiers.ts";

/** Text by path relative to the package's root. */
export type Files = Map<string, string>;

/** Where the emitter finds Deno's own types: a file that exists in memory only. */
const DENO_TYPES = "/deno.d.ts";

/**
 * What the sources, paths relative to `root`, become. Throws {@linkcode XenblkError} for a source that cannot be read or
 * does not declare its types.
 */
export function emit(root: string, sources: readonly string[], specifiers: Specifiers): Files {
  const options: ts.CompilerOptions = {
    target: ts.ScriptTarget.ESNext,
    module: ts.ModuleKind.Preserve,
    lib: ["lib.esnext.d.ts"],
    types: [],
    strict: true,
    exactOptionalPropertyTypes: true,
    allowImportingTsExtensions: true,
    declaration: true,
    rootDir: root,
    outDir: "/",
    newLine: ts.NewLineKind.LineFeed,
  };
  const files: Files = new Map();
  const program = ts.createProgram([...sources.map((path) => root + path), DENO_TYPES], options, host(options));
  const { diagnostics } = program.emit(
    undefined,
    (path, text) => path.endsWith(".json") || files.set(path.slice(1), text),
    undefined,
    false,
    { after: [specifiers.transformer()], afterDeclarations: [specifiers.transformer()] },
  );
  const faults = [...program.getSyntacticDiagnostics(), ...diagnostics];
  if (faults.length > 0) {
    throw new XenblkError(`Cannot pack ${describe(root, faults[0]!)}`, { remedy: "run deno check" });
  }
  return files;
}

/** The compiler's view of the file system, and Deno's types, without which it would infer `any`. */
function host(options: ts.CompilerOptions): ts.CompilerHost {
  const files = ts.createCompilerHost(options);
  const { getSourceFile, fileExists } = files;
  return {
    ...files,
    fileExists: (path) => path === DENO_TYPES || fileExists(path),
    getSourceFile: (path, ...rest) =>
      path === DENO_TYPES
        ? ts.createSourceFile(path, denoTypes(), ts.ScriptTarget.ESNext)
        : getSourceFile(path, ...rest),
  };
}

function denoTypes(): string {
  const { success, stdout, stderr } = new Deno.Command(Deno.execPath(), { args: ["types"] }).outputSync();
  if (!success) throw new XenblkError(`Cannot pack: deno types failed: ${new TextDecoder().decode(stderr).trim()}`);
  return new TextDecoder().decode(stdout);
}

function describe(root: string, { file, start = 0, messageText }: ts.Diagnostic): string {
  const text = ts.flattenDiagnosticMessageText(messageText, "\n");
  if (file === undefined) return text;
  return `${file.fileName.replace(root, "")}:${file.getLineAndCharacterOfPosition(start).line + 1}: ${text}`;
}
