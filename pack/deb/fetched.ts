/**
 * npm packages that go into the Debian package: fetched by npm, and checked against the integrity that the checkout
 * names, which is deno.lock's for the dependencies of the code.
 */

import { createHash } from "node:crypto";
import { XenblkError } from "../../lib/errors.ts";
import { succeeds } from "./command.ts";

/** A package of npm's registry in an exact version, with the SHA-512 of its tarball. */
export interface LockedPackage {
  readonly name: string;
  readonly version: string;
  readonly integrity: string;
}

/** Deno's own program. Whoever changes .dvmrc takes the integrity from `npm view @deno/linux-x64-glibc@VERSION dist`. */
export const DENO: LockedPackage = {
  name: "@deno/linux-x64-glibc",
  version: "2.9.6",
  integrity: "sha512-3md4TKLCuzsLDmfOoC5KN7NAZaxSVkMgm64vg6foD00JBADCpYS2/5QqXfzgnP5ZQz3iLP9vBQJtEgc116OAoQ==",
};

/** What is read of deno.lock. */
interface Lock {
  readonly npm?: Readonly<Record<string, { readonly integrity: string; readonly dependencies?: readonly string[] }>>;
}

/**
 * The packages that `roots` (version by name) are and need, by deno.lock. Throws {@linkcode XenblkError} if the lock lacks
 * one, or has two versions of one: a flat node_modules holds only one.
 */
export function lockedPackages(lockText: string, roots: ReadonlyMap<string, string>): LockedPackage[] {
  const { npm = {} }: Lock = JSON.parse(lockText);
  const found = new Map<string, LockedPackage>();
  const wanted = [...roots].map(([name, version]) => `${name}@${version}`);
  for (const key of wanted) {
    // A dependency is named without its version if there is only one.
    const full = Object.keys(npm).find((each) =>
      each === key || each.startsWith(`${key}@`) || each.startsWith(`${key}_`)
    );
    const entry = full === undefined ? undefined : npm[full];
    if (full === undefined || entry === undefined) throw cannot(`deno.lock has no ${key}`);
    const at = full.indexOf("@", 1);
    // A version may end with those of its peers: 1.0.0_react@18.
    const name = full.slice(0, at), version = full.slice(at + 1).split("_")[0]!;
    const known = found.get(name);
    if (known !== undefined && known.version !== version) throw cannot(`${name} is needed in two versions`);
    found.set(name, { name, version, integrity: entry.integrity });
    wanted.push(...(entry.dependencies ?? []).filter((each) => !wanted.includes(each)));
  }
  return [...found.values()];
}

/** Unpacks a package into a folder, which is made. Rejects with {@linkcode XenblkError} if its tarball is another. */
export async function unpack({ name, version, integrity }: LockedPackage, folder: string): Promise<void> {
  const work = await Deno.makeTempDir({ prefix: "xenblk-fetch-" });
  try {
    const args = ["pack", "--json", "--ignore-scripts", "--pack-destination", work, `${name}@${version}`];
    const [{ filename }] = JSON.parse(await succeeds("npm", args));
    // npm has names with a slash in them in its output, but not on the disk.
    const tarball = `${work}/${String(filename).replace("@", "").replace("/", "-")}`;
    const found = `sha512-${createHash("sha512").update(await Deno.readFile(tarball)).digest("base64")}`;
    if (found !== integrity) throw cannot(`${name}@${version} is not the expected one (${found})`);
    await Deno.mkdir(folder, { recursive: true });
    await succeeds("tar", ["-xzf", tarball, "-C", folder, "--strip-components=1", "--no-same-owner"]);
  } finally {
    await Deno.remove(work, { recursive: true });
  }
}

function cannot(why: string): XenblkError {
  return new XenblkError(`Cannot make the Debian package: ${why}`, {
    remedy: "run deno install, and see pack/deb/fetched.ts",
  });
}
