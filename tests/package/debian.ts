/**
 * `deno task test:deb`: makes the Debian package, and installs, upgrades, removes and purges it on a bare Debian 12 and
 * a bare Debian 13. It needs root, mmdebstrap and the mirror that apt uses, and takes a minute or two, most of it for
 * the two roots if they are not there yet.
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { makeDebianPackage } from "../../pack/deb/package.ts";
import { readProject } from "../../pack/manifest.ts";
import type { LiveMember } from "../../lib/cli/live.ts";
import type { DeviceListing } from "../../lib/toolstack/list.ts";
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

/** A line for each file: mode, owner and path. Modules, packages, pages and documents are one line for each mode. */
async function listing(): Promise<string> {
  const lines = (await dpkgDeb("--contents")).trimEnd().split("\n").map((line) => {
    const [mode, owner, , , , path = ""] = line.split(/\s+/);
    const place = path.replace(version, "VERSION")
      .replace(/node_modules\/(?!xenblk\/).+/, "node_modules/PACKAGE/...").replace(
        /(node_modules\/(@[^/]+\/)?[^/]+\/).+/,
        "$1...",
      )
      .replace(/(\/(docs|examples|contrib)\/).+/, "$1...").replace(/xenblk-[a-z-]+\.1\.gz/, "xenblk-VERB.1.gz");
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

/** The packages' names in a root. */
const FIRST = inRoot(made.path), SECOND = inRoot(next.path);

function inRoot(path: string): string {
  return `/srv/${path.slice(path.lastIndexOf("/") + 1)}`;
}

function apt(root: BareRoot, ...args: readonly string[]): Promise<string> {
  return root.succeeds(["apt-get", "-q", "-y", ...HASTE, ...args], { network: true });
}

async function install(root: BareRoot, ...args: readonly string[]): Promise<string> {
  const text = await apt(root, "install", "--no-install-recommends", ...args);
  assertEquals(text.match(/^(dpkg|E|W): .*$/gm), null);
  return text;
}

async function installs(root: BareRoot): Promise<void> {
  const plan = await apt(root, "--simulate", "install", FIRST);
  for (const name of ["qemu-utils", "xenstore-utils"]) assertMatch(plan, new RegExp(`^Inst ${name} `, "m"));
  const isOld = root.suite === "bookworm";
  assertEquals(/^Inst qemu-system-common /m.test(plan), isOld, "the package with qemu-storage-daemon");
  assertMatch(await install(root, FIRST), new RegExp(`^Setting up xenblk \\(${version}\\)`, "m"));
  assertEquals(await root.succeeds(["getent", "group", "xenblk"]).then((line) => line.split(":")[0]), "xenblk");
}

async function runs(root: BareRoot): Promise<void> {
  const before = new Set(await root.paths());
  assertEquals(await root.succeeds(["xenblk", "--version"]), `xenblk ${version}\n`);
  assertMatch(await root.succeeds(["xenblk", "dry-run", "--requests=500", "--size=8M"]), /^Verified: /m);
  await root.succeeds(["xenblk", "config", "check"]);
  const doctor = await root.run(["xenblk", "doctor"]);
  assertEquals(doctor.status, 5, doctor.text);
  assertMatch(doctor.text, /^hypervisor +fail /m);
  assert(!doctor.text.includes("Uncaught"), doctor.text);
  const added = (await root.paths()).filter((path) => !before.has(path));
  assertEquals(added.filter((path) => !path.startsWith("/var/cache/xenblk/") && !path.startsWith("/run/")), []);
}

async function runsForOthers(root: BareRoot): Promise<void> {
  const asNobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", "HOME=/nowhere"];
  assertMatch(await root.succeeds([...asNobody, "xenblk", "dry-run", "--requests=50", "--size=1M"]), /^Verified: /m);
}

async function hasPages(root: BareRoot): Promise<void> {
  assertMatch(await root.succeeds(["man", "xenblk"]), /xenblk - serve disk images to Xen guests/);
  assertMatch(await root.succeeds(["man", "xenblk-image-create"]), /XENBLK-IMAGE-CREATE\(1\)/);
  assertMatch(await root.succeeds(["apropos", "Xen guests"]), /^xenblk \(1\)/m);
}

async function upgrades(root: BareRoot): Promise<void> {
  await root.succeeds(["sh", "-c", "echo '# mine' >>/etc/xenblk/config.toml"]);
  await install(root, "--reinstall", FIRST);
  await upgradesUnderUse(root);
  assertMatch(await root.succeeds(["tail", "-1", "/etc/xenblk/config.toml"]), /^# mine$/m);
}

/**
 * Upgrades while a process runs the version before, in the same namespace of processes: it goes on as it is, and its
 * program stays, with modules that it has not loaded yet, until the first upgrade after its end.
 */
async function upgradesUnderUse(root: BareRoot): Promise<void> {
  const program = `/usr/lib/xenblk/${version}`;
  const wait = `const first = Deno.execPath();
    for await (const _ of Deno.stdin.readable) break;
    await import("${program}/node_modules/xenblk/mod.js");
    console.log(first === Deno.execPath() ? "the same" : Deno.execPath());`;
  const script = `mkfifo /tmp/go
    DENO_DIR=/tmp/deno ${program}/deno eval --node-modules-dir=manual --no-lock '${wait}' </tmp/go >/tmp/said 2>&1 &
    exec 3>/tmp/go
    until [ "$(readlink /proc/$!/exe)" = ${program}/deno ]; do sleep 0.05; done
    dpkg --force-unsafe-io -i ${SECOND} && ls -A /usr/lib/xenblk && echo go >&3 && wait $! && cat /tmp/said &&
    dpkg --force-unsafe-io -i ${SECOND} && ls -A /usr/lib/xenblk`;
  const text = await root.succeeds(["sh", "-c", script]);
  assertStringIncludes(text, `a process still runs ${version}`);
  const lines = text.split("\n").filter((line) => /^(0|the same)/.test(line));
  assertEquals(lines, [version, NEXT, "the same", NEXT], text);
}

/** Two disks of a guest as `xenblk list --json` prints them, one of them served by xenblk and connected. */
const SERVED: LiveMember = { pid: 7, verb: "serve", version, connected: true, latched: false, weight: 100 };
const LISTED: readonly (Partial<DeviceListing> & { readonly live?: LiveMember })[] = [
  { domainName: "web", name: "xvda", backendState: "Connected" },
  { domainName: "web", name: "xvdb", backendState: "Connected", live: SERVED },
  { domainName: "web", name: "xvdc", backendState: "InitWait", live: { ...SERVED, connected: false } },
];

/** The command stands aside for one that says that guests use disks, which needs a Xen. */
async function staysWhileInUse(root: BareRoot): Promise<void> {
  const command = `#!/bin/sh\ncat <<'END'\n${JSON.stringify(LISTED)}\nEND\n`;
  const [away, back] = ["mv /usr/bin/xenblk /srv/xenblk", "mv /srv/xenblk /usr/bin/xenblk"];
  await root.succeeds([
    "sh",
    "-c",
    `${away} && printf %s "$1" >/usr/bin/xenblk && chmod 755 /usr/bin/xenblk`,
    "sh",
    command,
  ]);
  const { status, text } = await root.run(["dpkg", "--remove", "xenblk"]);
  assertEquals(status, 1, text);
  assertStringIncludes(text, "guests still use these disks:\n  web xvdb\nWithout xenblk");
  await root.succeeds(["sh", "-c", back]);
  assertEquals(await root.succeeds(["xenblk", "--version"]), `xenblk ${version}\n`);
}

async function vanishes(root: BareRoot, before: readonly string[]): Promise<void> {
  await apt(root, "remove", "xenblk");
  const kept = (await root.paths()).filter((path) => /xenblk/.test(path) && !OTHERS.test(path));
  assertEquals(kept, KEPT);
  await apt(root, "purge", "xenblk");
  await apt(root, "autoremove", "--purge");
  const known = new Set(before);
  assertEquals((await root.paths()).filter((path) => !known.has(path) && !OTHERS.test(path)), []);
}

for (const suite of SUITES) {
  Deno.test({ name: `${suite}: installed, tried, upgraded, removed and purged`, timeout: 300_000 }, async (t) => {
    using root = await BareRoot.make(suite);
    const before = await root.paths();
    for (const { path } of [made, next]) await root.add(path);
    await t.step(
      "apt installs it with the libraries that it needs, and would add QEMU's programs",
      () => installs(root),
    );
    await t.step("the command runs without a network, and writes only to its cache", () => runs(root));
    await t.step("another user runs it too", () => runsForOthers(root));
    await t.step("man finds and prints the pages, and apropos knows them", () => hasPages(root));
    await t.step("dpkg finds every file as it was packed", async () => {
      assertEquals(await root.succeeds(["dpkg", "--verify", "xenblk"]), "");
    });
    await t.step(
      "installed over itself and upgraded, it keeps a changed configuration file and what still runs",
      () => upgrades(root),
    );
    await t.step("it is not removed while guests use disks, and says which", () => staysWhileInUse(root));
    await t.step("removed, it leaves its configuration; purged, nothing", () => vanishes(root, before));
  });
}
