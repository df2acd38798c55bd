/**
 * The examples of contrib/xl, as far as that can be seen without xl: their disks are what xenblk and libxl take.
 */

import { assert, assertEquals } from "@std/assert";
import { imageText, parseImage } from "../../lib/storage/image/spec.ts";
import { formatVdev, parseVdev } from "../../lib/xenbus/vdev.ts";
import { ROOT } from "../house/source.ts";

/** The disks of an example. */
function disksOf(name: string): string[] {
  const text = Deno.readTextFileSync(`${ROOT}contrib/xl/${name}`).replace(/^#.*\n/gm, "");
  const list = /^disk = \[([^\]]*)\]$/m.exec(text)?.[1] ?? "";
  return [...list.matchAll(/"([^"]*)"/g)].map(([, disk]) => disk!);
}

const noFile = (): Promise<boolean> => Promise.resolve(false);

Deno.test("for Xen 4.19 and later, each disk is of the kind that serve serves, with the script that is installed", async () => {
  const disks = disksOf("xen-4.19.cfg");
  const images: unknown[] = [];
  for (const disk of disks) {
    assert(/^backendtype=tap, script=block-xenblk, format=raw, .*, target=[^,]+$/.test(disk), disk);
    const { vdev, access, target } = Object.fromEntries(disk.split(", ").map((field) => field.split("=", 2)));
    // libxl writes format and target into params; a format in the target is the one that counts.
    images.push([formatVdev(parseVdev(vdev)), access, imageText(await parseImage(target, noFile))]);
  }
  assertEquals(images, [
    ["xvda", "rw", "raw:/var/lib/xen/images/web.img"],
    ["xvdb", "rw", "qcow2:/var/lib/xen/images/data.qcow2"],
    ["xvdc", "ro", "raw:/dev/vg/library"],
  ]);
});

Deno.test("for Xen 4.17, whose libxl refuses backendtype=tap, the example has no disk of ours", () => {
  assertEquals(disksOf("xen-4.17.cfg"), []);
});
