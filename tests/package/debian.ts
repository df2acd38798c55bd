/**
 * `deno task test:deb`: makes the Debian package, and installs, upgrades, removes and purges it on a bare Debian 12 and
 * a bare Debian 13. It needs root, mmdebstrap and the mirror that apt uses, and takes a minute or two, most of it for
 * the two roots if they are not there yet.
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { makeDebianPackage } from "../../pack/deb/package.ts";
import { readProject } from "../../pack/manifest.ts";
import { ROOT } from "../house/source.ts";
import { BareRoot, makeBase } from "./bare_root.ts";

const SUITES = ["bookworm", "trixie"];
const { version } = readProject(ROOT);
const NEXT = `${version}+next`;
/** What a removal leaves: files that an operator may have changed, and that the service was enabled. */
const KEPT = [
  "/etc/systemd/system/multi-user.target.wants/xenblk.service",
  "/etc/xen/scripts/block-xenblk",
  "/etc/xenblk",
  "/etc/xenblk/config.toml",
];
/** Paths that apt, dpkg and the caches of other packages own. */
const OTHERS =
  /^\/(var\/(lib\/(dpkg|apt|systemd)|cache\/(apt|debconf|man|ldconfig)|log)|etc\/(ld\.so\.cache|resolv\.conf|g?shadow-|group-)|run|srv)(\/|$)/;

const folder = await Deno.makeTempDir({ prefix: "xenblk-debian-" });
/** Written to the disk in no order that survives a power failure; much faster. */
const HASTE = ["-o", "Dpkg::Options::=--force-unsafe-io"];
// The roots need the network, and the packages a processor.
const [made, next] = await Promise.all([
  makeDebianPackage(ROOT, folder, { compressionLevel: 1 }),
  makeDebianPackage(ROOT, folder, { compressionLevel: 1, version: NEXT }),
  ...SUITES.map((suite) => makeBase(suite)),
]);
Deno.test.afterAll(() => Deno.remove(folder, { recursive: true }));

/** What dpkg-deb says about the package. */
async function dpkgDeb(option: string): Promise<string> {
  const { stdout } = await new Deno.Command("dpkg-deb", { args: [option, made.path] }).output();
  return new TextDecoder().decode(stdout);
}

/** A line for each file: mode, owner and path. Modules, pages and documents are one line for each folder and mode. */
async function listing(): Promise<string> {
  const lines = (await dpkgDeb("--contents")).trimEnd().split("\n").map((line) => {
    const [mode, owner, , , , path = ""] = line.split(/\s+/);
    const place = path.replace(version, "VERSION").replace(/(node_modules\/(@[^/]+\/)?[^/]+\/).+/, "$1...")
      .replace(/(\/(docs|examples)\/).+/, "$1...").replace(/xenblk-[a-z-]+\.1\.gz/, "xenblk-VERB.1.gz");
    return place.endsWith("...") && path.endsWith("/") ? undefined : `${mode} ${owner} ${place}`;
  });
  return [...new Set(lines.filter((line) => line !== undefined))].join("\n") + "\n";
}

Deno.test("the package has these files, with these modes, and all of them are root's", async () => {
  const golden = new URL("./debian_files.txt", import.meta.url);
  if (Deno.env.get("XENBLK_WRITE_GOLDEN") === "1") await Deno.writeTextFile(golden, await listing());
  assertEquals(await listing(), await Deno.readTextFile(golden));
});

Deno.test("the same source and date give the same bytes", async () => {
  const again = await makeDebianPackage(ROOT, `${folder}/again`, { compressionLevel: 1 });
  assertEquals(await digest(again.path), await digest(made.path));
});

async function digest(path: string): Promise<string> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", await Deno.readFile(path))).toHex();
}

for (const suite of SUITES) {
  Deno.test({ name: `${suite}: installed, tried, upgraded, removed and purged`, timeout: 300_000 }, async (t) => {
    using root = await BareRoot.make(suite);
    const before = await root.paths();
    const packages = [made.path, next.path];
    for (const path of packages) await root.add(path);
    const [first, second] = packages.map((path) => `/srv/${path.slice(path.lastIndexOf("/") + 1)}`);
    const apt = (...args: readonly string[]): Promise<string> =>
      root.succeeds(["apt-get", "-q", "-y", ...HASTE, ...args], { network: true });

    await t.step("apt installs it with the libraries that it needs, and would add QEMU's programs", async () => {
      const plan = await apt("--simulate", "install", first!);
      for (const name of ["qemu-utils", "xenstore-utils"]) assertMatch(plan, new RegExp(`^Inst ${name} `, "m"));
      assertEquals(/^Inst qemu-system-common /m.test(plan), suite === "bookworm", "where qemu-storage-daemon is");
      const text = await apt("install", "--no-install-recommends", first!);
      assertMatch(text, new RegExp(`^Setting up xenblk \\(${version}\\)`, "m"));
      assertEquals(text.match(/^(dpkg|E|W): .*$/gm), null);
    });

    await t.step("the command runs without a network, and writes only below /var/cache/xenblk", async () => {
      const installed = new Set(await root.paths());
      assertEquals(await root.succeeds(["xenblk", "--version"]), `xenblk ${version}\n`);
      assertMatch(await root.succeeds(["xenblk", "dry-run", "--requests=500", "--size=8M"]), /^Verified: /m);
      const doctor = await root.run(["xenblk", "doctor"]);
      assertEquals(doctor.status, 5, doctor.text);
      assertStringIncludes(doctor.text, "libxengnttab");
      assert(!doctor.text.includes("Uncaught"), doctor.text);
      const added = (await root.paths()).filter((path) => !installed.has(path));
      assertEquals(added.filter((path) => !path.startsWith("/var/cache/xenblk/") && !path.startsWith("/run/")), []);
    });

    await t.step("another user runs it too", async () => {
      const asNobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", "HOME=/nowhere"];
      assertMatch(
        await root.succeeds([...asNobody, "xenblk", "dry-run", "--requests=50", "--size=1M"]),
        /^Verified: /m,
      );
    });

    await t.step("man finds and prints the pages, and apropos knows them", async () => {
      assertMatch(await root.succeeds(["man", "xenblk"]), /xenblk - serve disk images to Xen guests/);
      assertMatch(await root.succeeds(["man", "xenblk-image-create"]), /XENBLK-IMAGE-CREATE\(1\)/);
      assertMatch(await root.succeeds(["apropos", "Xen guests"]), /^xenblk \(1\)/m);
    });

    await t.step("dpkg finds every file as it was packed", async () => {
      assertEquals(await root.succeeds(["dpkg", "--verify", "xenblk"]), "");
    });

    await t.step("an upgrade leaves one version, and keeps a changed configuration file", async () => {
      await root.succeeds(["sh", "-c", "echo '# mine' >>/etc/xen/scripts/block-xenblk"]);
      await apt("install", "--no-install-recommends", "--reinstall", first!);
      assertStringIncludes(await apt("install", "--no-install-recommends", second!), `Unpacking xenblk (${NEXT})`);
      assertEquals(await root.succeeds(["ls", "-A", "/usr/lib/xenblk"]), `${NEXT}\n`);
      assertMatch(await root.succeeds(["tail", "-1", "/etc/xen/scripts/block-xenblk"]), /^# mine$/m);
    });

    await t.step("removed, it leaves its configuration; purged, nothing", async () => {
      await apt("remove", "xenblk");
      const kept = (await root.paths()).filter((path) => /xenblk/.test(path) && !OTHERS.test(path));
      assertEquals(kept, KEPT);
      await apt("purge", "xenblk");
      await apt("autoremove", "--purge");
      const known = new Set(before);
      const left = (await root.paths()).filter((path) => !known.has(path) && !OTHERS.test(path));
      assertEquals(left, []);
    });
  });
}
