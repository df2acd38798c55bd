/**
 * Image arguments as people and toolstacks write them: paths with and without colons, formats, xl's syntax, sizes, and
 * what is refused with which words.
 */

import { assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { XenblkError } from "../../lib/errors.ts";
import { absolutePath } from "../../lib/path_lookup.ts";
import { formatSize, parseSize } from "../../lib/sizes.ts";
import { parseImage, parseParams } from "../../lib/storage/image/spec.ts";
import { Folder } from "./rig.ts";

const nothing = (): Promise<boolean> => Promise.resolve(false);

async function refusal(text: string): Promise<XenblkError> {
  return await assertRejects(() => parseImage(text, nothing), XenblkError);
}

Deno.test("a bare path is a raw image", async () => {
  assertEquals(await parseImage("/srv/disk.img", nothing), { format: "raw", target: "/srv/disk.img" });
  assertEquals(await parseImage("disk.img", nothing), { format: "raw", target: "disk.img" });
});

Deno.test("a format ends at the first colon; aio, file and phy mean raw", async () => {
  for (const format of ["raw", "aio", "file", "phy", "AIO"]) {
    assertEquals(await parseImage(`${format}:/srv/a:b.img`, nothing), { format: "raw", target: "/srv/a:b.img" });
  }
  assertEquals(await parseImage("memory:64M", nothing), { format: "memory", target: "64M" });
  assertEquals(await parseImage("null:1G", nothing), { format: "null", target: "1G" });
});

Deno.test("an existing file is a path, whatever colons it has", async () => {
  using folder = new Folder();
  const path = folder.file("raw:odd,name=x.img", 512);
  assertEquals(await parseImage(path), { format: "raw", target: path });
  assertEquals(await parseImage(`aio:${path}`), { format: "raw", target: path });
  assertEquals(await parseImage("memory:1M", (name) => Promise.resolve(name === "memory:1M")), {
    format: "raw",
    target: "memory:1M",
  });
});

Deno.test("in params a format that is served is one, whatever files there are", async () => {
  assertEquals(await parseParams("aio:a.img"), { format: "raw", target: "a.img" });
  assertEquals(await parseParams("/srv/a:b.img"), { format: "raw", target: "/srv/a:b.img" });
  await assertRejects(() => parseParams("my:disk.img"), XenblkError, "unknown format my");
});

Deno.test("what cannot be a format is part of the path", async () => {
  assertEquals(await parseImage("/srv/a:b", nothing), { format: "raw", target: "/srv/a:b" });
  assertEquals(await parseImage("./a:b", nothing), { format: "raw", target: "./a:b" });
});

Deno.test("xl's syntax gives fields, and its target takes the rest", async () => {
  const text = "format=raw,vdev=xvdb,access=ro,target=/srv/a,b=c.img";
  const fields = { format: "raw", target: "/srv/a,b=c.img", readOnly: true, vdev: "xvdb" };
  assertEquals(await parseImage(text, nothing), fields);
  assertEquals(await parseImage("vdev=hda,access=w,target=/d", nothing), {
    format: "raw",
    target: "/d",
    readOnly: false,
    vdev: "hda",
  });
  const cdrom = { format: "raw", target: "/c.iso", readOnly: true, cdrom: true };
  assertEquals(await parseImage("devtype=cdrom,target=/c.iso", nothing), cdrom);
});

Deno.test("access=w! in xl's syntax shares the image, and only it does", async () => {
  const shared = async (access: string): Promise<unknown> =>
    (await parseImage(`access=${access},target=/d`, nothing)).shared;
  assertEquals([await shared("w!"), await shared("rw!"), await shared("w"), await shared("r")], [
    true,
    true,
    undefined,
    undefined,
  ]);
});

Deno.test("a file name that is not UTF-8 is refused with a remedy, and a link to that file is an image", async () => {
  using folder = new Folder();
  const shell =
    `printf x >"$(printf '${folder.path}/\\377.img')"; ln -s "$(printf '\\377.img')" '${folder.path}/link.img'`;
  assertEquals(new Deno.Command("sh", { args: ["-c", shell] }).outputSync().success, true);
  // As Deno passes the bytes on, from arguments and from xenstore.
  for (const prefix of ["", "aio:", "format=raw,target="]) {
    const error = await assertRejects(() => parseImage(`${prefix}${folder.path}/\uFFFD.img`), XenblkError);
    assertMatch(error.line, /^Cannot open image \/.*: its name is not UTF-8, and Deno cannot open .*symbolic link/);
  }
  assertEquals((await parseImage(`${folder.path}/link.img`)).target, `${folder.path}/link.img`);
  assertEquals(await absolutePath(`${folder.path}/link.img`), `${folder.path}/link.img`);
  const named = folder.file("\uFFFD.img", 512);
  assertEquals((await parseImage(named)).target, named);
});

Deno.test("formats that need a driver are refused with the way to convert them", async () => {
  for (const format of ["qcow2", "vhd", "vmdk", "nbd"]) {
    const error = await refusal(`${format}:/srv/disk`);
    assertEquals(error.message, `Cannot use image ${format}:/srv/disk: the format ${format} is not supported yet`);
    assertEquals(error.remedy, "convert it with `qemu-img convert -O raw`");
    assertEquals(error.exitStatus, 2);
  }
  assertMatch((await refusal("format=qcow2,target=/srv/disk")).message, /format qcow2 is not supported yet/);
});

Deno.test("unknown formats, fields and missing targets are usage errors that name them", async () => {
  assertMatch((await refusal("rwa:/srv/disk")).message, /unknown format rwa/);
  assertMatch((await refusal("raw:")).message, /nothing follows the format/);
  assertMatch((await refusal("")).message, /empty/);
  assertMatch((await refusal("format=raw,colour=red,target=/d")).message, /unknown field colour=red/);
  assertMatch((await refusal("format=raw,access=x,target=/d")).message, /access=x has a value that is unknown/);
  assertMatch((await refusal("format=raw,vdev=xvda")).message, /nothing follows/);
});

Deno.test("sizes are read in powers of 1024 and shown likewise", () => {
  assertEquals([parseSize("4096"), parseSize("64M"), parseSize("1g"), parseSize("2GiB")], [
    4096,
    64 << 20,
    1 << 30,
    2 * 2 ** 30,
  ]);
  for (const bad of ["", "M", "1X", "-1", "1.5G", "9000000P"]) {
    assertMatch(assertThrows(() => parseSize(bad), XenblkError).message, /^Cannot read size/);
  }
  assertEquals([formatSize(512), formatSize(2 ** 30), formatSize(1536)], ["512 B", "1.0 GiB", "1.5 KiB"]);
});
