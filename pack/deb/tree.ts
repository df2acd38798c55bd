/**
 * The files of the Debian package, in memory until they are complete.
 */

/** A file of the package. */
export interface PackedFile {
  readonly bytes: Uint8Array;
  readonly mode: number;
}

/** Files by path, without a slash in front. An empty folder has a path that ends with a slash. */
export type Tree = Map<string, PackedFile>;

/** Adds a text, or bytes. */
export function addFile(tree: Tree, path: string, content: string | Uint8Array, mode = 0o644): void {
  tree.set(path, { bytes: typeof content === "string" ? new TextEncoder().encode(content) : content, mode });
}

/** Writes all of it below a folder, with its modes, whatever the umask of this process is. */
export async function writeTree(tree: Tree, folder: string): Promise<void> {
  const made = new Set<string>();
  for (const [path, { bytes, mode }] of tree) {
    await makeFolders(folder, path, made);
    if (path.endsWith("/")) continue;
    await Deno.writeFile(`${folder}/${path}`, bytes);
    await Deno.chmod(`${folder}/${path}`, mode);
  }
}

async function makeFolders(folder: string, path: string, made: Set<string>): Promise<void> {
  const names = ["", ...path.split("/").slice(0, -1)];
  for (const index of names.keys()) {
    const each = `${folder}${names.slice(0, index + 1).join("/")}`;
    if (made.has(each)) continue;
    await Deno.mkdir(each, { recursive: true });
    await Deno.chmod(each, 0o755);
    made.add(each);
  }
}
