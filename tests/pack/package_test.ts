/**
 * The npm package outside the checkout: what is in it, the command under Node, the library from a project with
 * TypeScript or Deno, and every example. It is packed and installed once, for all tests of this file.
 */

import { assert, assertEquals, assertLess, assertMatch, assertStringIncludes } from "@std/assert";
import ts from "typescript";
import { frontendPath } from "../../lib/xenbus/paths.ts";
import { parseVdev } from "../../lib/xenbus/vdev.ts";
import { PROGRAMS } from "../house/loaded_modules.ts";
import { ROOT } from "../house/source.ts";
import { machineFaults } from "../house/style_rule.ts";
import { RunningProgram } from "../library/programs.ts";
import { nativeTest, NativeXen } from "../native/harness.ts";
import { nodeValue, sparseImage } from "../native/serve/backend.ts";
import { type GuestDisk, GuestProcess } from "../native/serve/guest.ts";
import { assertClean, GUEST, LOAD, received } from "../native/serve/scenes.ts";
import { Installation } from "./installation.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
const EXAMPLES = [...Deno.readDirSync(`${ROOT}examples`)].map(({ name }) => name).sort();
/** What a user may see at the top of the package. */
const TOP =
  /^(bin\/xenblk\.js|cli\.(js|d\.ts)|(chunks|docs|examples|contrib|lib|ffi)\/.+|[A-Z]+(\.md)?|package\.json)$/;

let made: Promise<Installation> | undefined;
const installed = (): Promise<Installation> => made ??= Installation.make();
Deno.test.afterAll(async () => (await made)?.[Symbol.dispose]());

/** Paths of all files below a folder, relative to it. */
function filesBelow(folder: string, prefix = ""): string[] {
  return [...Deno.readDirSync(`${folder}/${prefix}`)].flatMap(({ name, isDirectory }) =>
    isDirectory ? filesBelow(folder, `${prefix}${name}/`) : [prefix + name]
  );
}

/** The relative modules that a file names, also as URLs, as paths in the package. */
function modulesOf(path: string, text: string): string[] {
  const imports = ts.preProcessFile(text, true, true).importedFiles.map(({ fileName }) => fileName);
  const urls = [...text.matchAll(/new URL\(\s*"([^"]+)",\s*import\.meta\.url/g)].map((match) => match[1]!);
  const relative = [...imports, ...urls].filter((name) => /^\..*[^/]$/.test(name));
  return relative.map((name) => new URL(name, `file:///${path}`).pathname.slice(1));
}

Deno.test(
  { name: "the package holds the product and its documents, and nothing of the checkout", timeout: 120_000 },
  async () => {
    const installation = await installed();
    const files = filesBelow(installation.package);
    const publicModules = Object.values<string>(JSON.parse(Deno.readTextFileSync(`${ROOT}deno.json`)).exports)
      .map((path) => path.slice(2, -3));
    const roots = [...publicModules, "native", "platform"].flatMap((name) => [`${name}.js`, `${name}.d.ts`]);
    assertEquals(files.filter((path) => !TOP.test(path) && !roots.includes(path)), []);
    const sources = files.filter((path) => path.endsWith(".ts") && !path.endsWith(".d.ts"));
    assertEquals(sources.sort(), EXAMPLES.map((name) => `examples/${name}`)); // to copy
    for (const path of ["LICENSE", "README.md", "CHANGELOG.md", "mod.d.ts", "ffi/platform.js"]) {
      assert(
        files.includes(path),
        path,
      );
    }
    const missing: string[] = [];
    for (const path of files) {
      const text = Deno.readTextFileSync(`${installation.package}/${path}`);
      assertEquals(machineFaults(path, text), []);
      if (!/\.(js|d\.ts)$/.test(path)) continue;
      missing.push(
        ...modulesOf(path, text).filter((name) => !files.includes(name)).map((name) => `${path} names ${name}`),
      );
      if (path.endsWith(".d.ts")) assertEquals(text.replaceAll(/\/\*.*?\*\//gs, "").match(/: any\b/g), null, path);
    }
    assertEquals(missing, []);
    const isRun = (path: string): boolean => (Deno.statSync(`${installation.package}/${path}`).mode! & 0o100) !== 0;
    assertEquals(files.filter((path) => path.startsWith("contrib/") && isRun(path)), ["contrib/block-xenblk"]);
  },
);

/** The files of the package that a program loads when it starts, its first files included; and other modules. */
function loadedFrom(folder: string, first: readonly string[]): { readonly files: string[]; readonly others: string[] } {
  const [files, others] = [new Set<string>(), new Set<string>()];
  const left = [...first];
  for (let path = left.pop(); path !== undefined; path = left.pop()) {
    if (files.has(path)) continue;
    files.add(path);
    const source = ts.createSourceFile(path, Deno.readTextFileSync(`${folder}/${path}`), ts.ScriptTarget.ESNext);
    for (const statement of source.statements) {
      const specifier = ts.isImportDeclaration(statement) || ts.isExportDeclaration(statement)
        ? statement.moduleSpecifier
        : undefined;
      if (specifier === undefined || !ts.isStringLiteral(specifier)) continue;
      const { text } = specifier;
      if (/^\..*\.js$/.test(text)) left.push(new URL(text, `file:///${path}`).pathname.slice(1));
      else if (!text.startsWith(".")) others.add(text);
    }
  }
  return { files: [...files], others: [...others] };
}

/** The most JavaScript that a program or thread reads when it starts: 172, 841, 306 and 88 KiB when this was written. */
const MOST_KIB: Readonly<Record<string, number>> = {
  "xenblk --version": 185,
  "xenblk serve": 870,
  "a reactor": 320,
  "a file thread": 100,
};

Deno.test("a start loads few files of the package, of bounded size, no other package, and nothing of Node", async () => {
  const { package: folder } = await installed();
  for (const { name, entries } of PROGRAMS) {
    const { files, others } = loadedFrom(folder, entries.map((path) => path.replace(/\.ts$/, ".js")));
    assertEquals(others, [], entries[0]);
    const bytes = files.reduce((sum, path) => sum + Deno.statSync(`${folder}/${path}`).size, 0);
    assertLess(bytes, MOST_KIB[name]! * KIB, `what ${name} loads`);
    assert(files.length <= entries.length + 12, `${entries[0]} loads ${files.length} files: ${files.join(", ")}`);
  }
});

Deno.test("deno task pack replaces a tarball of the same version, and says where it is and how large", async () => {
  const { said, tarballs } = await installed();
  const { version } = JSON.parse(Deno.readTextFileSync(`${ROOT}deno.json`));
  assertEquals([...Deno.readDirSync(tarballs)].map(({ name }) => name), [`xenblk-${version}.tgz`]);
  const [, path, kib] = /^(\S+): (\d+) KiB; \d+ files, \d+ KiB installed\n$/.exec(said) ?? [];
  assertEquals(path, `${Deno.realPathSync(tarballs)}/xenblk-${version}.tgz`);
  assertEquals(Number(kib), Math.ceil(Deno.statSync(`${tarballs}/xenblk-${version}.tgz`).size / KIB));
  assertLess(Number(kib), 1280, "a larger package holds something that nobody asked for");
});

Deno.test("npx xenblk runs the command: its version, an image of one's own, and the status of a failure", async () => {
  const installation = await installed();
  const { version } = JSON.parse(Deno.readTextFileSync(`${ROOT}deno.json`));
  assertEquals((await installation.succeeds("npx", "xenblk", "--version")).stdout, `xenblk ${version}\n`);
  const bytes = crypto.getRandomValues(new Uint8Array(64 * KIB));
  await Deno.writeFile(`${installation.project}/disk.img`, bytes);
  const { stdout } = await installation.succeeds(
    "npx",
    "xenblk",
    "dry-run",
    "disk.img",
    "--requests=100",
    "--filter=throttle",
  );
  assertMatch(stdout, /Verified/);
  assertEquals(await Deno.readFile(`${installation.project}/disk.img`), bytes, "a dry run only reads an image");
  const { status, stderr } = await installation.run("npx", "xenblk", "dry-run", "none.img");
  assertEquals(status, 1);
  assertStringIncludes(stderr, "none.img");
  assertEquals(
    [...Deno.readDirSync(installation.project)].map(({ name }) => name).filter((name) => name === "deno.lock"),
    [],
  );
});

Deno.test("a signal reaches the command, outside of the terminal's session, and its status comes back", async () => {
  const { project } = await installed();
  const temporary = `${project}/temporary`;
  await Deno.mkdir(temporary);
  await using command = new Deno.Command("setsid", {
    args: [`${project}/node_modules/.bin/xenblk`, "dry-run", "--seconds=60", "--size=1M"],
    env: { TMPDIR: temporary },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const output = command.output();
  // The run has no output before its end; once its image holds data, it listens for signals.
  const writes = (): boolean =>
    [...Deno.readDirSync(temporary)].some(({ name }) => Deno.statSync(`${temporary}/${name}`).blocks !== 0);
  while (!writes()) await new Promise((resolve) => setTimeout(resolve, 10));
  // ^C goes to all processes of the terminal's session, and a second signal would end the command at once.
  const child = Deno.readTextFileSync(`/proc/${command.pid}/task/${command.pid}/children`).trim();
  const [, , , session] = Deno.readTextFileSync(`/proc/${child}/stat`).replace(/^.*\) /, "").split(" ");
  assertEquals(session, child);
  Deno.kill(-command.pid, "SIGINT");
  const { code, stdout, stderr } = await output;
  const text = new TextDecoder();
  assertEquals([code, text.decode(stderr)], [130, ""]);
  assertMatch(text.decode(stdout), /Stopped early\. Verified/);
});

Deno.test("without its dependency deno the command says what is missing and what to do", async () => {
  const installation = await installed();
  const deno = `${installation.project}/node_modules/deno`;
  await Deno.rename(deno, `${deno}.away`);
  try {
    const { status, stderr } = await installation.run("npx", "xenblk", "--version");
    assertEquals(status, 1);
    assertMatch(
      stderr,
      /^xenblk: Cannot start xenblk: its dependency deno is missing .*; install the package again.*\n$/,
    );
  } finally {
    await Deno.rename(`${deno}.away`, deno);
  }
});

/** Uses values and types of the library; no cast, and no types of Deno. */
const PROGRAM = `
import { attach, type AttachedDisk, type AttachOptions, type DiskStats, parseVdev, XenblkError } from "xenblk";
import { testHost } from "xenblk/testing";

const options: AttachOptions = { domain: "web", image: "disk.img", vdev: "xvdb" };
export async function reads(): Promise<number> {
  await using disk: AttachedDisk = await attach(options);
  const stats: DiskStats = await disk.stats();
  return stats.operations.read.requests;
}
const error: Error = new XenblkError("Cannot", { remedy: "do" });
console.log(parseVdev("xvdb"), error.message);
export async function served(): Promise<number> {
  await using host = await testHost();
  return (await host.startGuest({ name: "web" })).domid;
}
`;

Deno.test("types are complete for Deno and for TypeScript's compiler, and a wrong one is found", async () => {
  const installation = await installed();
  const { project } = installation;
  await Deno.writeTextFile(`${project}/program.ts`, PROGRAM);
  await Deno.writeTextFile(`${project}/wrong.ts`, PROGRAM.replace('vdev: "xvdb"', "vdev: 51728"));
  await installation.succeeds(Deno.execPath(), "check", "program.ts");
  assertMatch((await installation.succeeds(Deno.execPath(), "run", "-A", "program.ts")).stdout, /^51728 Cannot$/m);
  const flags = ["--noEmit", "--strict", "--exactOptionalPropertyTypes", "--skipLibCheck", "--target", "esnext"];
  const tsc = await installation.run("npx", "tsc", ...flags, "--module", "nodenext", "program.ts", "wrong.ts");
  assertEquals(tsc.stdout.trimEnd().split("\n").map((line) => line.replace(/\(.*?: /, ": ")), [
    "wrong.ts: error TS2322: Type 'number' is not assignable to type 'string'.",
  ]);
});

/** The type assertions of a program, but `as const`. */
function castsOf(text: string): string[] {
  const source = ts.createSourceFile("a.ts", text, ts.ScriptTarget.ESNext, true);
  const casts: string[] = [];
  const visit = (node: ts.Node): void => {
    if ((ts.isAsExpression(node) && !ts.isConstTypeReference(node.type)) || ts.isTypeAssertionExpression(node)) {
      casts.push(node.getText());
    }
    ts.forEachChild(node, visit);
  };
  visit(source);
  return casts;
}

/** Examples that need a guest or a server, and have a test of their own. */
const SERVED = ["scripted_attach.ts", "compressed_disk.ts", "http_disk.ts", "sqlite_disk.ts"];

Deno.test("every example runs as a program of one's own, and is correct without a cast", async () => {
  assertEquals(castsOf("const a = b as C, d = [] as const; // as an example"), ["b as C"]);
  const installation = await installed();
  for (const name of EXAMPLES) {
    const text = await Deno.readTextFile(`${ROOT}examples/${name}`);
    assertEquals(castsOf(text), [], name);
    await Deno.writeTextFile(`${installation.project}/${name}`, text);
  }
  await installation.succeeds(Deno.execPath(), "check", ...EXAMPLES);
  for (const name of EXAMPLES.filter((name) => !SERVED.includes(name))) {
    await installation.succeeds(Deno.execPath(), name.endsWith("_test.ts") ? "test" : "run", "-A", name);
  }
});

/** A test of one's own image over mock rings; `node:assert` is what every project has. */
const KIT_TEST = `
import { deepStrictEqual } from "node:assert";
import { type Guest, testHost } from "xenblk/testing";

Deno.test("what a guest writes is in the image", async () => {
  Deno.writeFileSync("kit.img", new Uint8Array(1 << 20));
  await using host = await testHost();
  const guest: Guest = await host.startGuest({ name: "web" });
  await using disk = await host.attach({ domain: guest.domid, image: "kit.img" });
  await using drive = await guest.connect(disk.vdev);
  const bytes = crypto.getRandomValues(new Uint8Array(8192));
  await drive.write(4096, bytes);
  await drive.flush();
  deepStrictEqual(await drive.read(4096, 8192), bytes);
  deepStrictEqual(Deno.readFileSync("kit.img").subarray(4096, 4096 + 8192), bytes);
  const { errors, miscompares } = await guest.load({ requests: 200 });
  deepStrictEqual([errors, miscompares], [0, 0]);
});
`;

Deno.test("the testing kit serves a project's own image over mock rings, in a test of the project", async () => {
  const installation = await installed();
  await Deno.writeTextFile(`${installation.project}/kit_test.ts`, KIT_TEST);
  assertMatch((await installation.succeeds(Deno.execPath(), "test", "-A", "kit_test.ts")).stdout, /^ok \| 1 passed/m);
});

Deno.test("disks in TypeScript that import the installed package are served", async () => {
  const installation = await installed();
  for (const name of EXAMPLES) await Deno.copyFile(`${ROOT}examples/${name}`, `${installation.project}/${name}`);
  await using server = serveZeroes(MIB);
  const { hostname, port } = server.addr;
  const compressed = ["--write", "plugin:./compressed_disk.ts?2M"];
  const http = [`--plugin-allow=net=${hostname}:${port}`, `plugin:./http_disk.ts?http://${hostname}:${port}/`];
  for (const args of [compressed, http]) {
    const { stdout } = await installation.succeeds("npx", "xenblk", "dry-run", "--requests=50", ...args);
    assertMatch(stdout, /\nVerified: \d+ sectors read back correctly/);
  }
});

/** A web server of a file of zeroes, with range requests. */
function serveZeroes(length: number): Deno.HttpServer<Deno.NetAddr> {
  return Deno.serve({ port: 0, hostname: "127.0.0.1", onListen: () => {} }, ({ headers }) => {
    const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(headers.get("range") ?? "") ?? [];
    if (first === undefined) {
      return new Response(null, { headers: { "accept-ranges": "bytes", "content-length": String(length) } });
    }
    return new Response(new Uint8Array(Number(last) - Number(first) + 1), { status: 206 });
  });
}

/** The guest's disk, once the program has written its nodes. */
async function connectedDisk(xen: NativeXen, guest: GuestProcess, vdev: string): Promise<GuestDisk> {
  const path = frontendPath({ frontendDomain: GUEST as never, vdev: parseVdev(vdev) });
  await nodeValue(xen, `${path}/state`);
  const disk = await guest.disk(path);
  await disk.connect();
  return disk;
}

nativeTest("the installed library and command attach disks to a guest: from an example, and in SQLite", async () => {
  const { project } = await installed();
  for (const name of EXAMPLES) await Deno.copyFile(`${ROOT}examples/${name}`, `${project}/${name}`);
  await using xen = await NativeXen.start();
  await xen.createDomain(GUEST, "web");
  for (const path of [`/local/domain/${GUEST}/device/vbd`, "/local/domain/0/backend"]) {
    await xen.run("xenstore-write", [path, ""]);
  }
  const image = sparseImage(xen.directory, "disk.img", 16 * MIB);
  const sqlite = [`plugin:./sqlite_disk.ts?${project}/disk.db`, "xvdc"];
  const allowed = ["read", "write"].map((kind) => `--plugin-allow=${kind}=${project}`);
  await using guest = new GuestProcess(xen, GUEST);
  await using program = new RunningProgram(xen, "scripted_attach.ts", ["web", image, "xvdb"], project);
  const command = ["attach", "web", ...sqlite, ...allowed];
  await using plugin = new RunningProgram(xen, "node_modules/xenblk/cli.js", command, project);
  const disks = [await connectedDisk(xen, guest, "xvdb"), await connectedDisk(xen, guest, "xvdc")];
  await program.says(/^xvdb of web is raw:/);
  for (const disk of disks) assertClean(received(await disk.load({ ...LOAD, requests: 300 })), "the guest's load");
  program.kill("SIGINT");
  const { status, stdout, stderr } = await program.ended();
  assertEquals([status, stderr], [0, ""]);
  assertMatch(stdout, /^read: [1-9]\d* requests, \d+ bytes, 0 errors$/m);
  assertEquals((await disks[0]!.verify(image)).miscompares, 0);
  plugin.kill("SIGTERM");
  assertEquals((await plugin.ended()).status, 0);
  assert(Deno.statSync(`${project}/disk.db`).size > MIB, "the guest's data is in the database");
});
