/**
 * The library's `attach` over the real xenstored and the stand-in grant and event libraries: the
 * example, and a program outside the checkout, each in a process that ends by itself.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { frontendPath } from "../../lib/xenbus/paths.ts";
import { parseVdev } from "../../lib/xenbus/vdev.ts";
import { ROOT } from "../house/source.ts";
import { nativeTest, NativeXen } from "../native/harness.ts";
import { nodeValue, sparseImage } from "../native/serve/backend.ts";
import { type GuestDisk, GuestProcess } from "../native/serve/guest.ts";
import { assertClean, GUEST, LOAD, received } from "../native/serve/scenes.ts";
import { Folder, RunningProgram } from "./programs.ts";

const MIB = 2 ** 20;
const EXAMPLE = `${ROOT}examples/scripted_attach.ts`;

/** A host with one guest and an image, and what the store holds before anything is attached. */
async function host(): Promise<{ xen: NativeXen; image: string; store: () => Promise<string>; before: string }> {
  const xen = await NativeXen.start();
  await xen.createDomain(GUEST, "web");
  for (const path of [`/local/domain/${GUEST}/device/vbd`, "/local/domain/0/backend"]) {
    await xen.run("xenstore-write", [path, ""]);
  }
  const store = (): Promise<string> => xen.run("xenstore-ls", ["-f", "-p"]);
  return { xen, image: sparseImage(xen.directory, "disk.img", 16 * MIB), store, before: await store() };
}

/** The guest's disk, once the program has written its nodes. */
async function guestDisk(xen: NativeXen, guest: GuestProcess, vdev: string): Promise<GuestDisk> {
  const path = frontendPath({ frontendDomain: GUEST as never, vdev: parseVdev(vdev) });
  await nodeValue(xen, `${path}/state`);
  return await guest.disk(path);
}

nativeTest("the example attaches a disk, prints what its guest did, and detaches it when interrupted", async () => {
  const { xen, image, store, before } = await host();
  await using _xen = xen;
  await using guest = new GuestProcess(xen, GUEST);
  await using program = new RunningProgram(xen, EXAMPLE, ["web", image, "xvdb"]);
  const disk = await guestDisk(xen, guest, "xvdb");
  await disk.connect();
  await program.says(/^xvdb of web is raw:.*disk\.img\n/);
  const load = received(await disk.load({ ...LOAD, requests: 300 }));
  assertClean(load, "the guest's load");
  program.kill("SIGINT");
  const { status, stdout, stderr } = await program.ended();
  assertEquals([status, stderr], [0, ""]);
  assertMatch(stdout, new RegExp(`^read: ${load.reads} requests, ${load.bytesRead} bytes, 0 errors$`, "m"));
  assertMatch(stdout, new RegExp(`^write: ${load.writes + load.barriers} requests, ${load.bytesWritten} bytes`, "m"));
  assertMatch(stdout, new RegExp(`^flush: ${load.flushes} requests`, "m"));
  assertEquals((await disk.verify(image)).miscompares, 0);
  assertEquals(await store(), before);
  assertEquals([...Deno.readDirSync(`${xen.directory}/journals`)], []);
});

nativeTest("the example ends by itself with a reason when it cannot attach, and when its guest has ended", async () => {
  const { xen, image, before, store } = await host();
  await using _xen = xen;
  await using missing = new RunningProgram(xen, EXAMPLE, ["db", image]);
  const { status, stderr } = await missing.ended();
  assertEquals(status, 3);
  assertMatch(stderr, /^Cannot find domain db: there is .*web \(domain 7\); give/);
  assertEquals(await store(), before);

  await using guest = new GuestProcess(xen, GUEST);
  await using program = new RunningProgram(xen, EXAMPLE, ["web", image]);
  await (await guestDisk(xen, guest, "xvda")).connect();
  await program.says(/^xvda of web/);
  await xen.killDomain(GUEST);
  const ended = await program.ended();
  assertEquals([ended.status, ended.stderr], [0, ""]);
  assert(!(await store()).includes("/backend/vbd3/"), "its nodes are removed");
});

/** Attaches, grows the disk, tries to attach the same image once more, and disposes. */
const PROGRAM = (library: string): string => `
import { attach, type AttachedDisk, type DiskStats, type NativePlatform, openNativePlatform, startService } from "${library}";

const [image, size] = Deno.args;
if (image === undefined) throw new Error("no image");
const platform: NativePlatform = await openNativePlatform();
{
  await using disk: AttachedDisk = await attach({ domain: ${GUEST}, image, vdev: "xvdb", readOnly: false, platform });
  Deno.truncateSync(image, Number(size));
  const { before, now } = await disk.resize({ timeoutMs: 10_000 });
  const stats: DiskStats = await disk.stats();
  const busy: string = await attach({ domain: "web", image, vdev: "xvdc", platform }).then(() => "", ({ line }) => line);
  console.log(JSON.stringify({ vdev: disk.vdev, before, now, reads: stats.operations.read.requests, busy }));
}
{
  const service = await startService({ platform, kind: "qdisk", settings: { grants: "map" }, workers: 1 });
  await service.close({ leave: "connected", timeoutMs: 1000 });
}
`;

nativeTest(
  "a program outside the checkout attaches a disk and ends by itself, without a cast or our import map",
  async () => {
    const { xen, image, store, before } = await host();
    await using _xen = xen;
    using folder = new Folder({ "program.ts": PROGRAM(`${ROOT}mod.ts`) });
    const check = await folder.deno("check", "program.ts");
    assertEquals([check.status, check.stderr.includes("ERROR")], [0, false], check.stderr);
    await using guest = new GuestProcess(xen, GUEST);
    await using program = new RunningProgram(xen, "program.ts", [image, String(24 * MIB)], folder.path);
    await (await guestDisk(xen, guest, "xvdb")).connect();
    const { status, stdout, stderr } = await program.ended();
    assertEquals([status, stderr.replaceAll(/^(Check|Download) .*\n/gm, "")], [0, ""]);
    const { busy, ...said } = JSON.parse(stdout);
    assertEquals(said, { vdev: "xvdb", before: 16 * 2048, now: 24 * 2048, reads: 0 });
    assertMatch(
      busy,
      /^Cannot write to image .*disk\.img: xenblk serves it to vbd3\/7\/51728; end that use first/,
    );
    assertEquals(await store(), before);
  },
);

nativeTest("a program that ends without disposing its disk gets a warning, and the disk stays Connected", async () => {
  const { xen, image } = await host();
  await using _xen = xen;
  const text = `import { attach } from "${ROOT}mod.ts";
    await attach({ domain: "web", image: ${JSON.stringify(image)} });
    Deno.exit(0);`;
  using folder = new Folder({ "program.ts": text });
  await using guest = new GuestProcess(xen, GUEST);
  await using program = new RunningProgram(xen, "program.ts", [], folder.path);
  await (await guestDisk(xen, guest, "xvda")).connect();
  const { stderr } = await program.ended();
  assertMatch(stderr, /xenblk: xvda of domain 7 was not disposed: it stays Connected; .*`xenblk detach 7 xvda`\n$/);
  assertEquals(await nodeValue(xen, `/local/domain/0/backend/vbd3/${GUEST}/51712/state`), "4");
});

Deno.test("a project with an import map of its own finds the library and what it imports", async () => {
  const config = JSON.stringify({ imports: { xenblk: `${ROOT}mod.ts` } });
  using folder = new Folder({ "deno.json": config, "program.ts": PROGRAM("xenblk") });
  const { status, stderr } = await folder.deno("check", "program.ts");
  assertEquals([status, stderr.includes("ERROR")], [0, false], stderr);
  const example = /```ts ignore\n(.*?)```/s.exec(Deno.readTextFileSync(`${ROOT}native.ts`))![1]!.replaceAll(
    /^ \* ?/gm,
    "",
  );
  Deno.writeTextFileSync(`${folder.path}/example.ts`, example);
  const documented = await folder.deno("check", "example.ts");
  assertEquals(documented.status, 0, documented.stderr);
  Deno.writeTextFileSync(`${folder.path}/wrong.ts`, PROGRAM("xenblk").replace('vdev: "xvdb"', "vdev: 51728"));
  const wrong = await folder.deno("check", "wrong.ts");
  assertEquals(wrong.status, 1, "types are complete: a wrong one is found");
  assertMatch(wrong.stderr, /Type 'number' is not assignable to type 'string'/);
});
