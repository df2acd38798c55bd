/**
 * Snapshots inside qcow2 images: what a graph that shows one reads, beside what qemu-img copies, and names that are
 * refused.
 */

import { assertEquals, assertRejects } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import { type ImageGraph, imageGraph, imageTree } from "../../../lib/storage/qemu/chain.ts";
import { QemuImg } from "../../../lib/storage/qemu/image_info.ts";
import { assertOpens, ImageFolder, run } from "./rig.ts";

const inspector = new QemuImg();

function io(image: string, ...commands: string[]): void {
  run("qemu-io", "-f", "qcow2", ...commands.flatMap((command) => ["-c", command]), image);
}

function headerOf(folder: ImageFolder): string {
  return `${folder.path}/run/header`;
}

async function graphOf(folder: ImageFolder, target: string, snapshot: string): Promise<ImageGraph> {
  const headerFile = headerOf(folder);
  return await imageGraph({ format: "qcow2", target, snapshot }, {
    inspector,
    prefix: "d",
    readOnly: true,
    headerFile,
  });
}

/** What the tree of a snapshot reads, by qemu-img. */
async function content(folder: ImageFolder, target: string, snapshot: string): Promise<Uint8Array> {
  const tree = await imageTree({ format: "qcow2", target, snapshot }, {
    inspector,
    readOnly: true,
    headerFile: headerOf(folder),
  });
  run("qemu-img", "convert", "-O", "raw", `json:${JSON.stringify(tree)}`, `${folder.path}/seen.raw`);
  return Deno.readFileSync(`${folder.path}/seen.raw`);
}

/** What qemu-img copies of it; it adds zeroes if the image has grown since. */
function copied(folder: ImageFolder, target: string, snapshot: string): Uint8Array {
  const args = ["-l", `snapshot.name=${snapshot}`, "-f", "qcow2", "-O", "raw"];
  run("qemu-img", "convert", ...args, target, `${folder.path}/copied.raw`);
  return Deno.readFileSync(`${folder.path}/copied.raw`);
}

const LAYOUTS = {
  "version 3": [],
  "version 2": ["-o", "compat=0.10"],
  "clusters of 512 bytes": ["-o", "cluster_size=512"],
  "clusters of 2 MiB": ["-o", "cluster_size=2M"],
  "subclusters": ["-o", "extended_l2=on,cluster_size=128k"],
};

for (const [layout, options] of Object.entries(LAYOUTS)) {
  Deno.test(`snapshots of an image with ${layout} read as qemu-img copies them`, async () => {
    using folder = new ImageFolder();
    const image = folder.create("a.qcow2", "qcow2", ...options);
    io(image, "write -P 1 0 3M");
    run("qemu-img", "snapshot", "-c", "one", image);
    io(image, "write -P 2 1M 1M", "write -z 0 64k", "discard 2M 512k");
    run("qemu-img", "snapshot", "-c", "before it", image);
    io(image, "write -P 3 0 8M");
    const bytes = Deno.readFileSync(image);
    for (const snapshot of ["one", "before it"]) {
      assertEquals(await content(folder, image, snapshot), copied(folder, image, snapshot), snapshot);
      const { graph } = await graphOf(folder, image, snapshot);
      assertEquals((await assertOpens(graph)).sizeBytes, 8 << 20);
      assertEquals(graph.files.filter(({ writable }) => writable), []);
    }
    assertEquals(Deno.readFileSync(image), bytes, "the image is as it was");
  });
}

Deno.test("a snapshot has its own size, reads its backing file, and is found by its ID, too", async () => {
  using folder = new ImageFolder();
  const base = folder.create("base.qcow2", "qcow2");
  io(base, "write -P 7 0 8M");
  const image = folder.overlay("a.qcow2", "base.qcow2", "qcow2");
  io(image, "write -P 1 1M 1M");
  run("qemu-img", "snapshot", "-c", "small", image);
  run("qemu-img", "resize", "-q", image, "16M");
  io(image, "write -P 2 0 16M");
  run("qemu-img", "snapshot", "-c", "1", image); // a name that is the other one's ID
  const { graph, description } = await graphOf(folder, image, "small");
  assertEquals((await assertOpens(graph)).sizeBytes, 8 << 20);
  assertEquals(description.endsWith(`, backed by qcow2 ${base}`), true, description);
  assertEquals(await content(folder, image, "small"), copied(folder, image, "small").subarray(0, 8 << 20));
  assertEquals((await content(folder, image, "1")).length, 16 << 20);
  run("qemu-img", "snapshot", "-d", "1", image);
  assertEquals((await content(folder, image, "1")).length, 8 << 20);
});

Deno.test("the last of many snapshots is found", async () => {
  using folder = new ImageFolder();
  const image = folder.create("a.qcow2", "qcow2");
  for (let i = 0; i < 70; i++) run("qemu-img", "snapshot", "-c", `${i}`.padStart(250, "x"), image);
  io(image, "write -P 1 0 8M");
  const bytes = await content(folder, image, "69".padStart(250, "x"));
  assertEquals([bytes.length, bytes.some((byte) => byte !== 0)], [8 << 20, false]);
});

Deno.test("the header of a snapshot stays the same file while its content is the same", async () => {
  using folder = new ImageFolder();
  const image = folder.create("a.qcow2", "qcow2");
  run("qemu-img", "snapshot", "-c", "one", image);
  await graphOf(folder, image, "one");
  const { ino } = Deno.statSync(headerOf(folder));
  await graphOf(folder, image, "one");
  assertEquals(Deno.statSync(headerOf(folder)).ino, ino);
  io(image, "write -P 1 0 1M");
  run("qemu-img", "snapshot", "-c", "two", image);
  await graphOf(folder, image, "two");
  assertEquals(Deno.statSync(headerOf(folder)).ino === ino, false);
});

Deno.test("snapshots that are not there, or cannot be looked into, are refused", async () => {
  using folder = new ImageFolder();
  const image = folder.create("a.qcow2", "qcow2");
  run("qemu-img", "snapshot", "-c", "one", image);
  const line = async (name: Parameters<typeof imageTree>[0], readOnly = true): Promise<string> => {
    const error = await assertRejects(() => imageTree(name, { inspector, readOnly }), XenblkError);
    return error.line.replaceAll(folder.path, "/F");
  };
  const label = "image format=qcow2,snapshot=two,target=/F/a.qcow2";
  assertEquals(
    await line({ format: "qcow2", target: image, snapshot: "two" }),
    `Cannot open ${label}: /F/a.qcow2 has no snapshot "two"; \`xenblk image info\` lists its snapshots`,
  );
  assertEquals(
    await line({ format: "qcow2", target: image, snapshot: "one" }, false),
    `Cannot open ${label.replace("two", "one")}: a snapshot can only be read; attach it read-only, or copy it ` +
      "(`xenblk image convert`)",
  );
  assertEquals(
    await line({ format: "qcow2", target: "nbd://host/a", snapshot: "one" }),
    'Cannot use snapshot "one" of image qcow2:nbd://host/a: only those of local files can be opened by name; copy it out ' +
      "with `xenblk image convert qcow2:nbd://host/a COPY --snapshot one` and attach the copy",
  );
  using header = Deno.openSync(image, { write: true });
  header.seekSync(64, Deno.SeekMode.Start);
  header.writeSync(new Uint8Array(8).fill(255)); // where the snapshot table is
  assertEquals((await line({ format: "qcow2", target: image, snapshot: "one" })).includes("has no snapshot"), true);
});
