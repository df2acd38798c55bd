/**
 * Of which images a snapshot can be taken, and by which names, as far as that is known before a daemon has the disk.
 */

import { assertRejects } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import { checkSnapshot } from "../../../lib/storage/qemu/overlay_create.ts";

Deno.test("a snapshot has a name, and is of an image in a file; a link to a device is none", async () => {
  const folder = Deno.makeTempDirSync({ prefix: "xenblk-overlay-" });
  try {
    const check = (snapshot: string, target: string, format = "raw"): Promise<void> =>
      checkSnapshot(snapshot, [{ image: { format, target }, name: "xvda" }]);
    Deno.writeTextFileSync(`${folder}/web.img`, "raw");
    Deno.symlinkSync(`${folder}/web.img`, `${folder}/file`);
    Deno.symlinkSync("/dev/null", `${folder}/device`);
    for (const name of ["web.img", "file"]) await check("one", `${folder}/${name}`);
    await assertRejects(() => check("a name", `${folder}/web.img`), XenblkError, "Cannot name a snapshot");
    for (const target of ["/dev/null", `${folder}/device`, "nbd://host/web"]) {
      await assertRejects(() => check("one", target), XenblkError, "its image is in no directory");
    }
    await assertRejects(() => check("one", `${folder}/none`), XenblkError, "No such file");
    await assertRejects(() => check("one", "64M", "memory"), XenblkError, "its image is in no directory");
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});
