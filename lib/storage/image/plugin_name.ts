/**
 * What `plugin:` names: the module of a disk in TypeScript, and the text after `?` that the module's `open` gets. Finds the
 * module's file; nothing of it is run here.
 */

import { errorText, XenblkError } from "../../errors.ts";
import { absolutePath, lookWithin } from "../../path_lookup.ts";

/** A disk in TypeScript, as it was named. */
export interface PluginName {
  /** Path of the module's file. */
  readonly module: string;
  /** What follows the first `?`; empty without one. Its meaning is the module's. */
  readonly argument: string;
}

/** A scheme, so not a path. */
const SCHEME = /^[a-z][a-z0-9+.-]*:/i;
/** What Deno takes for a module of code. */
const CODE = /\.(?:[cm]?[jt]s|[jt]sx)$/;

/** Splits what follows `plugin:`. The path ends at the first `?`. */
export function splitPlugin(target: string): PluginName {
  const end = target.indexOf("?");
  return end < 0 ? { module: target, argument: "" } : { module: target.slice(0, end), argument: target.slice(end + 1) };
}

/** What follows `plugin:`, put together again. */
function joinPlugin({ module, argument }: PluginName): string {
  return argument === "" ? module : `${module}?${argument}`;
}

/** The same with the module's absolute path, free of symbolic links. Rejects as {@linkcode findModule}. */
export async function absolutePlugin(target: string): Promise<string> {
  return joinPlugin(await findModule(target));
}

/**
 * Finds the module's file. Its path is then absolute and free of symbolic links. Rejects with {@linkcode XenblkError} if
 * there is none, it is a URL, or it has no extension by which Deno knows code.
 */
export async function findModule(target: string): Promise<PluginName> {
  const { module, argument } = splitPlugin(target);
  const refuse = (why: string, remedy: string, options: ErrorOptions & { readonly kind?: "usage" } = {}): never => {
    throw new XenblkError(`Cannot open plugin ${module}: ${why}`, { ...options, remedy });
  };
  if (module === "") return refuse("it names no module", "write plugin:./my_disk.ts", { kind: "usage" });
  if (SCHEME.test(module)) {
    return refuse("it is a URL, and a plugin is a local file", "save the module and name its path", { kind: "usage" });
  }
  if (!CODE.test(module)) {
    return refuse("its name does not end like that of a module", "name a .ts or .js file", { kind: "usage" });
  }
  try {
    const path = await absolutePath(module);
    const { isFile } = await lookWithin(path, () => Deno.stat(path));
    return isFile ? { module: path, argument } : refuse("it is not a file", "name the module's file");
  } catch (error) {
    if (error instanceof XenblkError) throw error;
    const isMissing = error instanceof Deno.errors.NotFound;
    const remedy = isMissing && !module.startsWith("/")
      ? `the path is relative to ${Deno.cwd()}; name the module's file, or its absolute path`
      : isMissing
      ? "name the module's file"
      : "let this user read it";
    return refuse(isMissing ? "there is no such file" : errorText(error), remedy, { cause: error });
  }
}
