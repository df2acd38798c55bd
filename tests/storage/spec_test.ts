/**
 * Image arguments as people and toolstacks write them: paths with and without colons, formats, xl's syntax, sizes, and
 * what is refused with which words.
 */

import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import { XenblkError } from "../../lib/errors.ts";
import { formatSize, parseSize } from "../../lib/sizes.ts";
import { parseImage } from "../../lib/storage/image/spec.ts";
import { Folder } from "./rig.ts";

const nothing = (): boolean => false;

function refusal(text: string): XenblkError {
  return assertThrows(() => parseImage(text, nothing), XenblkError);
}

Deno.test("a bare path is a raw image", () => {
  assertEquals(parseImage("/srv/disk.img", nothing), { format: "raw", target: "/srv/disk.img" });
  assertEquals(parseImage("disk.img", nothing), { format: "raw", target: "disk.img" });
});

Deno.test("a format ends at the first colon; aio, file and phy mean raw", () => {
  for (const format of ["raw", "aio", "file", "phy", "AIO"]) {
    assertEquals(parseImage(`${format}:/srv/a:b.img`, nothing), { format: "raw", target: "/srv/a:b.img" });
  }
  assertEquals(parseImage("memory:64M", nothing), { format: "memory", target: "64M" });
  assertEquals(parseImage("null:1G", nothing), { format: "null", target: "1G" });
});

Deno.test("an existing file is a path, whatever colons it has", () => {
  using folder = new Folder();
  const path = folder.file("raw:odd,name=x.img", 512);
  assertEquals(parseImage(path), { format: "raw", target: path });
  assertEquals(parseImage(`aio:${path}`), { format: "raw", target: path });
  assertEquals(parseImage("memory:1M", (name) => name === "memory:1M"), { format: "raw", target: "memory:1M" });
});

Deno.test("what cannot be a format is part of the path", () => {
  assertEquals(parseImage("/srv/a:b", nothing), { format: "raw", target: "/srv/a:b" });
  assertEquals(parseImage("./a:b", nothing), { format: "raw", target: "./a:b" });
});

Deno.test("xl's syntax gives fields, and its target takes the rest", () => {
  const text = "format=raw,vdev=xvdb,access=ro,target=/srv/a,b=c.img";
  const fields = { format: "raw", target: "/srv/a,b=c.img", readOnly: true, vdev: "xvdb" };
  assertEquals(parseImage(text, nothing), fields);
  assertEquals(parseImage("vdev=hda,access=w,target=/d", nothing), {
    format: "raw",
    target: "/d",
    readOnly: false,
    vdev: "hda",
  });
  const cdrom = { format: "raw", target: "/c.iso", readOnly: true, cdrom: true };
  assertEquals(parseImage("devtype=cdrom,target=/c.iso", nothing), cdrom);
});

Deno.test("formats that need a driver are refused with the way to convert them", () => {
  for (const format of ["qcow2", "vhd", "vmdk", "nbd"]) {
    const error = refusal(`${format}:/srv/disk`);
    assertEquals(error.message, `Cannot use image ${format}:/srv/disk: the format ${format} is not supported yet`);
    assertEquals(error.remedy, "convert it with `qemu-img convert -O raw`");
    assertEquals(error.exitStatus, 2);
  }
  assertMatch(refusal("format=qcow2,target=/srv/disk").message, /format qcow2 is not supported yet/);
});

Deno.test("unknown formats, fields and missing targets are usage errors that name them", () => {
  assertMatch(refusal("rwa:/srv/disk").message, /unknown format rwa/);
  assertMatch(refusal("raw:").message, /nothing follows the format/);
  assertMatch(refusal("").message, /empty/);
  assertMatch(refusal("format=raw,colour=red,target=/d").message, /unknown field colour=red/);
  assertMatch(refusal("format=raw,access=x,target=/d").message, /unknown field access=x/);
  assertMatch(refusal("format=raw,vdev=xvda").message, /nothing follows/);
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
