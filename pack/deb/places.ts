/**
 * Everything in the Debian package besides the program: the command, what the host's own programs read (units, rules,
 * scripts, completions, man pages), and the documents.
 */

import { gzipSync } from "node:zlib";
import { manPages } from "../man/pages.ts";
import { dateOf } from "../source_date.ts";
import { filesBelow } from "../files.ts";
import { succeeds } from "./command.ts";
import { copyright, debianChangelog, type Licensed, type Release } from "./control.ts";
import { addFile, type Tree } from "./tree.ts";

/** Files of the checkout that a program of the host reads: the place, the source, the mode. */
const PLACES: readonly (readonly [string, string, number])[] = [
  ["etc/xen/scripts/block-xenblk", "contrib/block-xenblk", 0o755],
  ["etc/xenblk/config.toml", "contrib/config.toml", 0o644],
  ["usr/lib/systemd/system/xenblk.service", "contrib/systemd/xenblk.service", 0o644],
  ["usr/lib/systemd/system/xenblk@.service", "contrib/systemd/xenblk@.service", 0o644],
  ["usr/lib/tmpfiles.d/xenblk.conf", "contrib/systemd/xenblk.tmpfiles", 0o644],
  ["usr/lib/sysusers.d/xenblk.conf", "contrib/systemd/xenblk.sysusers", 0o644],
  ["usr/lib/udev/rules.d/70-xenblk.rules", "contrib/udev/70-xenblk.rules", 0o644],
];

const COMPLETIONS = {
  bash: "usr/share/bash-completion/completions/xenblk",
  zsh: "usr/share/zsh/vendor-completions/_xenblk",
  fish: "usr/share/fish/vendor_completions.d/xenblk.fish",
} as const;

const DOCUMENTS = ["README.md", "CHANGELOG.md", "SECURITY.md", "docs/", "examples/", "contrib/"];
const DOC = "usr/share/doc/xenblk";

/** Puts all of it into the tree. `fill` replaces the names in the scripts. */
export async function addPlaces(
  root: string,
  tree: Tree,
  release: Release,
  fill: (text: string) => string,
): Promise<void> {
  const add = (path: string, content: string | Uint8Array, mode?: number): void => addFile(tree, path, content, mode);
  for (const [place, source, mode] of PLACES) add(place, await Deno.readFile(root + source), mode);
  add("var/cache/xenblk/", "");
  add("usr/bin/xenblk", fill(await Deno.readTextFile(`${root}pack/deb/debian/launcher.sh`)), 0o755);
  for (const [shell, place] of Object.entries(COMPLETIONS)) {
    add(place, await succeeds(Deno.execPath(), ["run", "-A", `${root}cli.ts`, "completion", shell]));
  }
  const pages = await manPages({ version: release.version, date: dateOf(release.date) });
  for (const [name, text] of pages) add(`usr/share/man/man1/${name}.gz`, gzipped(text));
  for (const path of DOCUMENTS.flatMap((name) => filesBelow(root, name))) {
    add(`${DOC}/${path}`, await Deno.readFile(root + path));
  }
  add(`${DOC}/README.Debian`, await Deno.readTextFile(`${root}pack/deb/debian/README.Debian`));
  add(`${DOC}/changelog.gz`, gzipped(debianChangelog(release)));
  add("usr/share/lintian/overrides/xenblk", await Deno.readTextFile(`${root}pack/deb/debian/lintian-overrides`));
}

/** The file `copyright` into the tree. */
export function addCopyright(tree: Tree, program: string, dependencies: readonly Licensed[]): void {
  addFile(tree, `${DOC}/copyright`, copyright(program, dependencies));
}

/** The same bytes for the same text: gzip's header then has no time. */
function gzipped(text: string): Uint8Array {
  return gzipSync(text, { level: 9 });
}
