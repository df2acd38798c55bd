/**
 * Makes the Debian package: puts the tree together in a temporary folder, and has dpkg-deb write the archive. The same
 * source and date give the same bytes.
 */

import { XenblkError } from "../../lib/errors.ts";
import { checkVersion, readProject } from "../manifest.ts";
import { sourceDate } from "../source_date.ts";
import { succeeds } from "./command.ts";
import { control, md5sums, type Release } from "./control.ts";
import { addCopyright, addPlaces } from "./places.ts";
import { addProgram } from "./program.ts";
import { addFile, type Tree, writeTree } from "./tree.ts";

/** A package that was written. */
export interface DebianPackage {
  readonly path: string;
  readonly sizeBytes: number;
  readonly installedBytes: number;
}

/** How it is made; a test makes it quickly, and in another version to upgrade to. */
export interface MakeOptions {
  /** Default: that of deno.json. */
  readonly version?: string;
  /** Of zstd, from 1 to 19. */
  readonly compressionLevel?: number;
}

/** 36 MB in 7 s. Level 19 saves a tenth of that and takes a minute. */
const COMPRESSION_LEVEL = 10;
const SCRIPTS = ["preinst", "postinst", "prerm", "postrm"];

/**
 * Writes xenblk_VERSION_amd64.deb of the checkout `root` (a path that ends with a slash) into a folder, which is made if
 * it is missing. A package of the same version is replaced once the new one is complete. Rejects with
 * {@linkcode XenblkError} if that fails.
 */
export async function makeDebianPackage(
  root: string,
  folder: string,
  options: MakeOptions = {},
): Promise<DebianPackage> {
  const project = readProject(root);
  checkVersion(project, await Deno.readTextFile(`${root}CHANGELOG.md`));
  const release = { version: options.version ?? project.version, date: sourceDate(root) };
  const program = `usr/lib/xenblk/${release.version}`;
  const common = await Deno.readTextFile(`${root}pack/deb/debian/common.sh`);
  const fill = (text: string): string =>
    text.replace("@COMMON@\n", () => common).replaceAll("@PROGRAM@", `/${program}`)
      .replaceAll("@VERSION@", release.version);
  const tree: Tree = new Map();
  addCopyright(tree, program, await addProgram(root, program, tree));
  await addPlaces(root, tree, release, fill);

  const sorted = new Map([...tree].sort(([a], [b]) => a < b ? -1 : 1));
  const installedBytes = [...sorted.values()].reduce((sum, { bytes }) => sum + bytes.length, 0);
  const controls = await controlFiles(root, release, sorted, installedBytes, fill);
  const path = `${folder}/xenblk_${release.version}_amd64.deb`;
  await write(new Map([...sorted, ...controls]), path, release.date, options.compressionLevel ?? COMPRESSION_LEVEL);
  return { path, sizeBytes: (await Deno.stat(path)).size, installedBytes };
}

async function controlFiles(
  root: string,
  release: Release,
  tree: Tree,
  installedBytes: number,
  fill: (text: string) => string,
): Promise<Tree> {
  const files: Tree = new Map();
  const conffiles = [...tree.keys()].filter((path) => path.startsWith("etc/"));
  addFile(files, "DEBIAN/control", control(release, installedBytes));
  addFile(files, "DEBIAN/md5sums", md5sums(tree));
  addFile(files, "DEBIAN/conffiles", conffiles.map((path) => `/${path}\n`).join(""));
  for (const name of SCRIPTS) {
    addFile(files, `DEBIAN/${name}`, fill(await Deno.readTextFile(`${root}pack/deb/debian/${name}`)), 0o755);
  }
  return files;
}

/** Has dpkg-deb write the archive, and moves it to its path. */
async function write(tree: Tree, path: string, date: number, level: number): Promise<void> {
  const stage = await Deno.makeTempDir({ prefix: "xenblk-deb-" });
  try {
    await writeTree(tree, `${stage}/tree`);
    const args = ["--root-owner-group", "-Zzstd", `-z${level}`, "--threads-max=1", "--build", `${stage}/tree`];
    await succeeds("dpkg-deb", [...args, `${stage}/a.deb`], { SOURCE_DATE_EPOCH: String(date) });
    await Deno.mkdir(path.slice(0, path.lastIndexOf("/")), { recursive: true });
    await Deno.copyFile(`${stage}/a.deb`, `${path}.partial`);
    await Deno.rename(`${path}.partial`, path);
  } catch (error) {
    if (error instanceof XenblkError) throw error;
    throw new XenblkError(`Cannot write ${path}: ${error instanceof Error ? error.message : error}`, {
      remedy: "name a folder that you may write to",
      cause: error,
    });
  } finally {
    await Deno.remove(stage, { recursive: true });
  }
}
