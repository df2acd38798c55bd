/**
 * The run of `qemu-img info`: one that hangs is killed and not started twice, one that prints too much or nothing is an
 * error, a missing one names its package; and what it says is read.
 */

import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import { cannotOpen, QemuImg, readInfo } from "../../../lib/storage/qemu/image_info.ts";
import { Folder } from "../rig.ts";
import { ImageFolder } from "./rig.ts";

const TREE = { driver: "qcow2", file: { driver: "file", filename: "/srv/disk" } };
const LABEL = "qcow2:/srv/disk";

/** A program in place of qemu-img. */
function script(folder: Folder, text: string): string {
  const path = folder.file("qemu-img", new TextEncoder().encode(`#!/bin/sh\n${text}\n`));
  Deno.chmodSync(path, 0o755);
  return path;
}

async function refusal(program: string, limitMs = 20_000): Promise<string> {
  return (await assertRejects(() => new QemuImg(program, limitMs).inspect(TREE, LABEL), XenblkError)).line;
}

Deno.test("a qemu-img that does not end is killed, and others go on meanwhile", async () => {
  using folder = new Folder();
  using images = new ImageFolder();
  const path = images.create("disk.qcow2", "qcow2");
  const hung = refusal(script(folder, `echo $$ >'${folder.path}/pid'; exec sleep 600`), 300);
  const info = await new QemuImg().inspect({ driver: "qcow2", file: { driver: "file", filename: path } }, path);
  assertEquals(info.encrypted, false);
  assertEquals(
    await hung,
    "Cannot open image qcow2:/srv/disk: its storage does not answer (qemu-img was ended after 0.3 s); check the device or " +
      "file server that the image is on",
  );
  const pid = Deno.readTextFileSync(`${folder.path}/pid`).trim();
  assertThrows(() => Deno.statSync(`/proc/${pid}/exe`), "it is gone");
});

Deno.test("a qemu-img that is missing, fails, or prints no JSON or too much is an error with a remedy", async () => {
  using folder = new Folder();
  assertEquals(
    await refusal(`${folder.path}/none`),
    `Cannot open image qcow2:/srv/disk: there is no program ${folder.path}/none; ` +
      "install it (Debian: apt-get install qemu-utils), or name it in XENBLK_QEMU_IMG",
  );
  const fails =
    `echo "qemu-img: Could not open 'json:{\\"a\\": \\"': \\"}': Failed to load module: block-rbd" >&2; exit 1`;
  assertEquals(
    await refusal(script(folder, fails)),
    "Cannot open image qcow2:/srv/disk: Failed to load module: block-rbd; install the package qemu-block-extra, which has the " +
      "drivers of remote stores",
  );
  assertEquals(
    await refusal(script(folder, "exit 1")),
    "Cannot open image qcow2:/srv/disk: qemu-img failed and did not say why",
  );
  const noJson = "Cannot read what qemu-img says of the image: it is not JSON; check the image with `qemu-img info`";
  assertEquals(await refusal(script(folder, "echo image: disk")), noJson);
  const started = performance.now();
  const line = await refusal(script(folder, "exec yes"));
  assertEquals(line, "Cannot open image qcow2:/srv/disk: qemu-img printed over 8388608 characters");
  assert(performance.now() - started < 15_000, "it was cut off");
});

Deno.test("what qemu-img says of a chain, a data file, encryption and damage", () => {
  const info = {
    "backing-filename": "base",
    "full-backing-filename": "/srv/base",
    "backing-filename-format": "raw",
    "encrypted": true,
    "format-specific": { type: "qcow2", data: { "data-file": "d", encrypt: { format: "luks" }, corrupt: true } },
  };
  assertEquals(readInfo(JSON.stringify(info)), {
    backingFilename: "base",
    fullBackingFilename: "/srv/base",
    backingFormat: "raw",
    dataFile: "d",
    encrypted: true,
    encryption: "luks",
    corrupt: true,
  });
  const vmdk = { "format-specific": { type: "vmdk", data: { extents: [{}, {}] } } };
  assertEquals(readInfo(JSON.stringify(vmdk)), { encrypted: false, corrupt: false, extents: 2 });
  assertEquals(readInfo("{}"), { encrypted: false, corrupt: false });
});

Deno.test("QEMU's words end up in the message without the options that it repeats", () => {
  const said = `qemu-img: Could not open 'json:{"driver": "qcow2", "file": {}}': Image is not in qcow2 format\n`;
  assertEquals(
    cannotOpen(LABEL, said, TREE).line,
    "Cannot open image qcow2:/srv/disk: Image is not in qcow2 format; name its real format; it does not begin like qcow2 " +
      "(`qemu-img info` tells what it is)",
  );
});
