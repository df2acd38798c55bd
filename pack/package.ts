/**
 * Makes the npm package: emits the code, adds the manifest and the documents, and has npm write the tarball. The folder
 * in which the package is put together is temporary.
 */

import { errorText, XenblkError } from "../lib/errors.ts";
import { joinModules } from "./chunks.ts";
import { emit, type Files } from "./emit.ts";
import { filesBelow } from "./files.ts";
import { checkVersion, COMMAND, manifest, type Project, readProject } from "./manifest.ts";
import { type Packages, Specifiers } from "./specifiers.ts";

/** A tarball that was written. */
export interface Tarball {
  readonly path: string;
  /** Its size, and that of the installed files. */
  readonly sizeBytes: number;
  readonly unpackedBytes: number;
  readonly fileCount: number;
}

/** Files that are in the package as they are; of a folder, all. */
const DOCUMENTS = ["README.md", "LICENSE", "CHANGELOG.md", "SECURITY.md", "docs/", "examples/", "contrib/"];
const LAUNCHER = "pack/launcher";

/**
 * Writes the tarball of the checkout `root` (a path that ends with a slash) into a folder, which is made if it is
 * missing. A tarball of the same version is replaced once the new one is complete. Rejects with
 * {@linkcode XenblkError} and leaves the folder as it was if that fails.
 */
export async function pack(root: string, folder: string): Promise<Tarball> {
  const project = readProject(root);
  checkVersion(project, Deno.readTextFileSync(`${root}CHANGELOG.md`));
  const output = makeFolder(folder);
  const stage = await Deno.makeTempDir({ prefix: "xenblk-pack-" });
  try {
    for (const [path, text] of (await packageFiles(root, project)).files) write(`${stage}/package/${path}`, text);
    for (const path of DOCUMENTS.flatMap((name) => filesBelow(root, name))) {
      write(`${stage}/package/${path}`, Deno.readFileSync(root + path));
    }
    return await tarball(stage, output);
  } finally {
    await Deno.remove(stage, { recursive: true });
  }
}

/** What the package is made of. */
export interface PackageFiles {
  /** The code, the command and the manifest. */
  readonly files: Files;
  /** The npm packages that the code imports. */
  readonly packages: Packages;
}

/** Emits the code of the checkout `root`, joins what a start needs, and adds the command and the manifest. */
export async function packageFiles(root: string, project: Project): Promise<PackageFiles> {
  const specifiers = new Specifiers(project.imports);
  const roots = Object.values(project.exports).map((path) => path.replace(/^\.\//, ""));
  const sources = ["cli.ts", ...roots, ...filesBelow(root, "lib/"), ...filesBelow(root, "ffi/"), `${LAUNCHER}.ts`];
  const files = emit(root, sources.filter((path) => path.endsWith(".ts")), specifiers);
  const launcher = files.get(`${LAUNCHER}.js`);
  if (launcher === undefined) throw new XenblkError(`Cannot pack ${root}: ${LAUNCHER}.ts was not emitted`);
  for (const end of [".js", ".d.ts"]) files.delete(LAUNCHER + end);
  await joinModules(files, { packages: specifiers.packages, lock: `${root}deno.lock` });
  const deno = Deno.readTextFileSync(`${root}.dvmrc`).trim();
  // Beside the code are files that it imports as text.
  for (const path of filesBelow(root, "lib/").filter((path) => !path.endsWith(".ts"))) {
    files.set(path, Deno.readTextFileSync(root + path));
  }
  files.set(COMMAND, launcher).set("package.json", manifest(project, specifiers.packages, deno));
  return { files, packages: specifiers.packages };
}

/** Has npm write the tarball of `stage`/package, and moves it to the output folder. */
async function tarball(stage: string, output: string): Promise<Tarball> {
  const args = ["pack", "--json", "--ignore-scripts", "--pack-destination", stage, `${stage}/package`];
  const { filename, size, unpackedSize, files } = JSON.parse(await npm(args))[0];
  const path = `${output}/${filename}`;
  try {
    await Deno.copyFile(`${stage}/${filename}`, `${path}.partial`);
    await Deno.rename(`${path}.partial`, path);
  } catch (error) {
    throw cannotWrite(path, error);
  }
  return { path, sizeBytes: size, unpackedBytes: unpackedSize, fileCount: files.length };
}

async function npm(args: readonly string[]): Promise<string> {
  try {
    const { success, stdout, stderr } = await new Deno.Command("npm", { args: [...args], stdin: "null" }).output();
    if (success) return new TextDecoder().decode(stdout);
    throw new XenblkError(`Cannot pack: npm pack failed: ${new TextDecoder().decode(stderr).trim()}`);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new XenblkError("Cannot pack: there is no npm on the path", { remedy: "install Node.js, which has it" });
  }
}

/** The folder's full path. */
function makeFolder(folder: string): string {
  try {
    Deno.mkdirSync(folder, { recursive: true });
    return Deno.realPathSync(folder);
  } catch (error) {
    throw cannotWrite(folder, error);
  }
}

function cannotWrite(path: string, error: unknown): XenblkError {
  return new XenblkError(`Cannot write ${path}: ${errorText(error)}`, {
    remedy: "name a folder that you may write to",
    cause: error,
  });
}

function write(path: string, content: string | Uint8Array): void {
  Deno.mkdirSync(path.slice(0, path.lastIndexOf("/")), { recursive: true });
  const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
  const isScript = path.includes("/contrib/") && new TextDecoder().decode(bytes.subarray(0, 2)) === "#!";
  Deno.writeFileSync(path, bytes, { mode: path.endsWith(COMMAND) || isScript ? 0o755 : 0o644 });
}
