/**
 * Lists files of the checkout, for the packages: in an order that does not depend on the file system.
 */

/** The paths of all files of a folder, whose name ends with a slash; of a file, itself. */
export function filesBelow(root: string, name: string): string[] {
  if (!name.endsWith("/")) return [name];
  return [...Deno.readDirSync(root + name)].flatMap((entry) =>
    filesBelow(root, `${name}${entry.name}${entry.isDirectory ? "/" : ""}`)
  ).sort();
}
