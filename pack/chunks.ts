/**
 * Joins the modules that a start needs into few files, since Deno opens, looks for a package.json beside, and compiles
 * each file by itself: `serve` would read 320. Every module keeps its path and its exports: in its place is a file that
 * exports the same from the chunk. So modules that are loaded later, Workers, descriptors and other programs find them
 * where they were, and there is one instance of each. `deno bundle` does the joining.
 */

import ts from "typescript";
import { XenblkError } from "../lib/errors.ts";
import type { Files } from "./emit.ts";
import type { Packages } from "./specifiers.ts";
import { ALL, type Edit, edited, type ModuleFacts, moduleFacts, relativeTo } from "./module_facts.ts";

/** A program or a thread of one, with what it loads in any case. */
export interface StartProgram {
  readonly name: string;
  /** The file that the system or a Worker starts; what it does happens in its own thread only. */
  readonly entry?: string;
  /** Modules that it loads by `import()` or by a descriptor. */
  readonly loads: readonly string[];
}

/** What runs when `xenblk serve` starts. */
const PROGRAMS: readonly StartProgram[] = [
  { name: "command", entry: "cli.js", loads: [] },
  {
    name: "serve",
    loads: ["lib/cli/serve.js", "ffi/platform.js", "lib/control/process.js", "lib/control/directory.js"],
  },
  {
    name: "reactor",
    entry: "lib/dataplane/reactor_worker.js",
    loads: ["ffi/thread_platform.js", "ffi/uring/disk.js"],
  },
  {
    name: "files",
    entry: "lib/storage/image/file_thread.js",
    loads: ["ffi/uring/image_calls.js", "ffi/linux/lock_calls.js"],
  },
];

/** Where the chunks are. */
const FOLDER = "chunks";

/** How the bundler names a file of a package: by the place of Deno's cache. */
const OF_PACKAGE = /^\/\/ \S+\/npm\/[^/]+\/(?<name>(@[^/]+\/)?[^/]+)\/(?<version>[^/]+)\/(?<file>\S+)$/gm;
/** LogTape's, for objects in messages. It has the same by Deno's means, but Deno takes this; it costs 13 ms of a start. */
const NODE_INSPECT = /^import util from "node:util";$/m;

/** Modules that the same programs need: one chunk. */
interface Group {
  /** The programs, by their index. */
  readonly programs: ReadonlySet<number>;
  readonly name: string;
  readonly paths: string[];
}

/** How modules are joined. */
export interface JoinOptions {
  /** npm packages that the modules import; what is used of them is in the chunks, too. */
  readonly packages: Packages;
  /** The path of the deno.lock with their hashes. */
  readonly lock: string;
  /** For tests. */
  readonly programs?: readonly StartProgram[];
}

/** Replaces the modules that a start needs by chunks, in place. Rejects with {@linkcode XenblkError} if it cannot. */
export async function joinModules(files: Files, { programs = PROGRAMS, ...sources }: JoinOptions): Promise<void> {
  const code = [...files.keys()].filter((path) => path.endsWith(".js"));
  const facts = new Map(code.map((path) => [path, moduleFacts(path, files.get(path)!)]));
  const groups = groupsOf(facts, programs);
  const groupOf = new Map(groups.flatMap((group) => group.paths.map((path) => [path, group] as const)));
  const chunks = await bundle(groups, facts, sources);
  for (const [path, fact] of facts) {
    const group = groupOf.get(path);
    files.set(path, group === undefined ? redirected(path, facts, groupOf) : standIn(path, fact, group));
  }
  for (const [name, text] of chunks) files.set(`${FOLDER}/${name}`, text);
}

/** The modules by the set of programs that need them. Entries are in none. */
function groupsOf(facts: ReadonlyMap<string, ModuleFacts>, programs: readonly StartProgram[]): Group[] {
  const entries = new Set(programs.map(({ entry }) => entry));
  const programsOf = new Map<string, Set<number>>();
  for (const [index, { entry, loads }] of programs.entries()) {
    const left = [...loads, ...entry === undefined ? [] : [entry]];
    const seen = new Set<string>();
    for (let path = left.pop(); path !== undefined; path = left.pop()) {
      if (seen.has(path)) continue;
      seen.add(path);
      const found = facts.get(path);
      if (found === undefined) throw cannotJoin(path, "there is no such module");
      left.push(...found.imports.flatMap(({ target }) => target?.endsWith(".js") ? [target] : []));
      if (found.exports.includes(ALL)) throw cannotJoin(path, "it has an export *, whose names are not known here");
      if (!entries.has(path)) programsOf.set(path, (programsOf.get(path) ?? new Set()).add(index));
    }
  }
  const groups = new Map<string, Group>();
  for (const [path, needing] of [...programsOf].sort(([a], [b]) => a < b ? -1 : 1)) {
    const name = programs.filter((_, index) => needing.has(index)).map(({ name }) => name).join("-");
    const group = groups.get(name) ?? { programs: needing, name, paths: [] };
    groups.set(name, group);
    group.paths.push(path);
  }
  return [...groups.values()];
}

/** The name of an export of a module among those of its chunk. */
function nameInChunk(path: string, name: string): string {
  return `${path.replace(/\.js$/, "").replaceAll(/[^A-Za-z0-9]/g, "_")}__${name}`;
}

/** The file that is in a joined module's place. */
function standIn(path: string, { exports }: ModuleFacts, { name }: Group): string {
  const chunk = JSON.stringify(relativeTo(path, `${FOLDER}/${name}.js`));
  const names = exports.map((each) => `${nameInChunk(path, each)} as ${each}`);
  return names.length === 0 ? `import ${chunk};\n` : `export { ${names.join(", ")} } from ${chunk};\n`;
}

/** A module that was not joined: it takes what it imports right from the chunks. */
function redirected(
  path: string,
  facts: ReadonlyMap<string, ModuleFacts>,
  groupOf: ReadonlyMap<string, Group>,
): string {
  const { text, imports } = facts.get(path)!;
  const edits: Edit[] = [];
  for (const { node, target } of imports) {
    const group = target === undefined ? undefined : groupOf.get(target);
    if (target === undefined || group === undefined || !ts.isImportDeclaration(node)) continue;
    const bindings = node.importClause?.namedBindings;
    if (node.importClause?.name !== undefined || bindings === undefined || !ts.isNamedImports(bindings)) continue;
    const names = bindings.elements.map(({ propertyName, name }) => {
      const exported = (propertyName ?? name).text;
      if (!facts.get(target)!.exports.includes(exported)) throw cannotJoin(path, `${target} exports no ${exported}`);
      return `${nameInChunk(target, exported)} as ${name.text}`;
    });
    const chunk = JSON.stringify(relativeTo(path, `${FOLDER}/${group.name}.js`));
    edits.push({ start: node.getStart(), end: node.end, text: `import { ${names.join(", ")} } from ${chunk};` });
  }
  return edited(text, edits);
}

/** The chunks by their names in the folder. */
async function bundle(
  groups: readonly Group[],
  facts: ReadonlyMap<string, ModuleFacts>,
  { packages, lock }: Omit<JoinOptions, "programs">,
): Promise<Map<string, string>> {
  const folder = await Deno.makeTempDir({ prefix: "xenblk-chunks-" });
  try {
    for (const [path, fact] of facts) write(`${folder}/in/${path}`, forChunk(path, fact));
    for (const group of groups) write(`${folder}/in/${group.name}.js`, entryOf(group, groups, facts));
    const imports = Object.fromEntries(
      [...packages].flatMap((
        [name, version],
      ) => [[name, `npm:${name}@${version}`], [`${name}/`, `npm:/${name}@${version}/`]]),
    );
    write(`${folder}/in/deno.json`, JSON.stringify({ imports, nodeModulesDir: "none" }));
    await Deno.copyFile(lock, `${folder}/in/deno.lock`);
    const args = ["bundle", "--quiet", "--platform", "deno", "--code-splitting", "--outdir", `${folder}/out`];
    const { success, stderr } = await new Deno.Command(Deno.execPath(), {
      args: [...args, ...groups.map(({ name }) => `./${name}.js`)],
      cwd: `${folder}/in`,
      stdin: "null",
      stdout: "null",
    }).output();
    if (!success) throw new XenblkError(`Cannot pack: deno bundle failed: ${new TextDecoder().decode(stderr).trim()}`);
    return portable(
      new Map([...Deno.readDirSync(`${folder}/out`)].map(({ name }) => [
        name,
        Deno.readTextFileSync(`${folder}/out/${name}`),
      ])),
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/**
 * What a chunk exports. It imports the chunks of all groups whose programs include its own: they are needed in any case,
 * and so the modules of a group are reached by the same chunks, and are not split further.
 */
function entryOf(group: Group, groups: readonly Group[], facts: ReadonlyMap<string, ModuleFacts>): string {
  const wider = groups.filter((other) => other !== group && group.programs.isSubsetOf(other.programs));
  const lines = wider.map(({ name }) => `import "./${name}.js";\n`);
  for (const path of group.paths) {
    const names = facts.get(path)!.exports.map((name) => `${name} as ${nameInChunk(path, name)}`);
    lines.push(names.length === 0 ? `import "./${path}";\n` : `export { ${names.join(", ")} } from "./${path}";\n`);
  }
  return lines.join("");
}

/** In a chunk a module has no URL of its own, so whatever is relative to it is named from the chunk's. */
function forChunk(path: string, { text, urls, dynamicImports }: ModuleFacts): string {
  const from = (target: string): string => JSON.stringify(relativeTo(`${FOLDER}/chunk.js`, target));
  return edited(text, [
    ...urls.map(({ start, end }) => ({ start, end, text: `new URL(${from(path)}, import.meta.url).href` })),
    ...dynamicImports.map(({ start, end, target }) => ({
      start,
      end,
      text: `new URL(${from(target)}, import.meta.url).href`,
    })),
  ]);
}

/** The same texts wherever they are made: names without hashes, and no path of this machine. */
function portable(chunks: ReadonlyMap<string, string>): Map<string, string> {
  const hashed = [...chunks.keys()].filter((name) => /^chunk-[A-Z0-9]+\.js$/.test(name));
  const order = (name: string): string => /^\/\/ ((lib|ffi)\/\S+)$/m.exec(chunks.get(name)!)?.[1] ?? name;
  hashed.sort((a, b) => order(a) < order(b) ? -1 : 1);
  const names = new Map(hashed.map((name, index) => [name, `shared-${index + 1}.js`]));
  const text = (chunk: string): string =>
    chunk.replaceAll(/(?<=from "\.\/|import "\.\/)chunk-[A-Z0-9]+\.js(?=")/g, (name) => names.get(name) ?? name)
      .replaceAll(OF_PACKAGE, "// $<name> $<version>, whose license is in node_modules/$<name>: $<file>")
      .replace(NODE_INSPECT, "const util = { inspect: Deno.inspect };");
  return new Map([...chunks].map(([name, chunk]) => [names.get(name) ?? name, text(chunk)]));
}

function write(path: string, text: string): void {
  Deno.mkdirSync(path.slice(0, path.lastIndexOf("/")), { recursive: true });
  Deno.writeTextFileSync(path, text);
}

function cannotJoin(path: string, why: string): XenblkError {
  return new XenblkError(`Cannot pack ${path}: ${why}`, { remedy: "correct the programs in pack/chunks.ts" });
}
