/**
 * Writes two Debian packages of the checkout into a folder, for the scenario that installs one and upgrades to the other:
 * first.deb, and next.deb of a higher version.
 * Usage: packages.ts FOLDER
 */

import { makeDebianPackage } from "../../../pack/deb/package.ts";
import { readProject } from "../../../pack/manifest.ts";
import { ROOT } from "../../house/source.ts";

const [folder = "."] = Deno.args;
const { version } = readProject(ROOT);
for (const [name, options] of [["first", {}], ["next", { version: `${version}+next` }]] as const) {
  const { path } = await makeDebianPackage(ROOT, folder, { compressionLevel: 1, ...options });
  await Deno.rename(path, `${folder}/${name}.deb`);
}
