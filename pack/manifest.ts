/**
 * The package's package.json, from the checkout's deno.json: one place has the version, the public modules and the
 * versions of packages.
 */

import { XenblkError } from "../lib/errors.ts";
import type { Packages } from "./specifiers.ts";

/** What packing reads of deno.json. */
export interface Project {
  readonly version: string;
  readonly license: string;
  readonly exports: Readonly<Record<string, string>>;
  readonly imports: Readonly<Record<string, string>>;
}

/** The package's name in npm's registry; the name in deno.json is that of JSR, which demands a scope. */
const NAME = "xenblk";
/** The command's file in the package. */
export const COMMAND = "bin/xenblk.js";

/** Reads the project's deno.json. */
export function readProject(root: string): Project {
  return JSON.parse(Deno.readTextFileSync(`${root}deno.json`));
}

/** Throws {@linkcode XenblkError} unless the changelog has a section for the version: a release is described. */
export function checkVersion({ version }: Project, changelog: string): void {
  if (changelog.split("\n").some((line) => line.startsWith(`## [${version}]`))) return;
  throw new XenblkError(`Cannot pack version ${version} of deno.json: CHANGELOG.md has no section [${version}]`, {
    remedy: "add the section, or correct the version in deno.json",
  });
}

/** The text of package.json. `packages` are those that the code imports, and `deno` is the version that runs it. */
export function manifest({ version, license, exports }: Project, packages: Packages, deno: string): string {
  const subpaths = Object.entries(exports).map(([subpath, source]) => {
    const stem = source.replace(/\.ts$/, "");
    return [subpath, { types: `${stem}.d.ts`, default: `${stem}.js` }];
  });
  const dependencies = [...packages, ["deno", deno]].sort(([a = ""], [b = ""]) => a < b ? -1 : 1);
  const fields = {
    name: NAME,
    version,
    description: "A Xen paravirtual block backend: a command, a library and a testing kit, on Deno",
    keywords: ["xen", "blkif", "vbd", "deno"],
    license,
    type: "module",
    engines: { node: ">=20" },
    bin: { [NAME]: COMMAND },
    exports: { ...Object.fromEntries(subpaths), "./package.json": "./package.json" },
    dependencies: Object.fromEntries(dependencies),
  };
  return `${JSON.stringify(fields, null, 2)}\n`;
}
