/**
 * The program as the Debian package has it: Deno, and beside it node_modules with the code as JavaScript and the npm
 * packages that it needs. The code finds them there as it does in the npm package (pack/package.ts).
 */

import { readProject } from "../manifest.ts";
import { packageFiles } from "../package.ts";
import { filesBelow } from "../files.ts";
import type { Licensed } from "./control.ts";
import type { Tree } from "./tree.ts";
import { DENO, lockedPackages, unpack } from "./fetched.ts";

/** What a program needs of a package: code and license. */
const NEEDED = /(\.([cm]?js|json|wasm|node)|(^|\/)(LICEN[CS]E|COPYING|NOTICE)[^/]*)$/i;

/** Puts the program below `folder` into the tree, and returns the npm packages that are in it. */
export async function addProgram(root: string, folder: string, tree: Tree): Promise<Licensed[]> {
  const { files, packages } = await packageFiles(root, readProject(root));
  const encoder = new TextEncoder();
  for (const [path, text] of files) {
    if (path.endsWith(".d.ts") || path.startsWith("bin/")) continue;
    // The launcher runs cli.js: nobody runs it as a script.
    const bytes = encoder.encode(text.replace(/^#!.*\n/, ""));
    tree.set(`${folder}/node_modules/xenblk/${path}`, { bytes, mode: 0o644 });
  }
  for (const path of filesBelow(root, "contrib/")) {
    tree.set(`${folder}/node_modules/xenblk/${path}`, {
      bytes: await Deno.readFile(root + path),
      mode: modeOf(root + path),
    });
  }
  const dependencies = lockedPackages(await Deno.readTextFile(`${root}deno.lock`), packages);
  const work = await Deno.makeTempDir({ prefix: "xenblk-deb-" });
  try {
    await unpack(DENO, `${work}/deno`);
    tree.set(`${folder}/deno`, { bytes: await Deno.readFile(`${work}/deno/deno`), mode: 0o755 });
    const licensed = [];
    for (const dependency of dependencies) licensed.push(await addDependency(dependency, work, folder, tree));
    return licensed;
  } finally {
    await Deno.remove(work, { recursive: true });
  }
}

async function addDependency(
  dependency: Omit<Licensed, "license">,
  work: string,
  folder: string,
  tree: Tree,
): Promise<Licensed> {
  const { name } = dependency;
  const source = `${work}/${name}/`;
  await unpack(dependency, source);
  for (const path of filesBelow(source, "./").map((each) => each.slice(2)).filter((each) => NEEDED.test(each))) {
    tree.set(`${folder}/node_modules/${name}/${path}`, { bytes: await Deno.readFile(source + path), mode: 0o644 });
  }
  const { license = "MIT" } = JSON.parse(await Deno.readTextFile(`${source}package.json`));
  return { ...dependency, license };
}

/** Scripts are run; what else is in contrib is read. */
function modeOf(path: string): number {
  return (Deno.statSync(path).mode ?? 0) & 0o111 ? 0o755 : 0o644;
}
