/**
 * Running qemu-img: its end by a signal and by a time limit, whatever it does, and what is read of its output. A script
 * stands in for it.
 */

import { QemuImg } from "../../../lib/storage/qemu/image_info.ts";
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import {
  isLocked,
  makeByQemuImg,
  QEMU_IMG_VARIABLE,
  qemuImgError,
  runQemuImg,
} from "../../../lib/storage/qemu/qemu_img.ts";

/** Runs the test with a shell script in place of qemu-img. */
async function withScript(script: string, test: () => Promise<void>): Promise<void> {
  const path = await Deno.makeTempFile({ prefix: "xenblk-qemu-img-" });
  const before = Deno.env.get(QEMU_IMG_VARIABLE);
  try {
    await Deno.writeTextFile(path, `#!/bin/sh\n${script}\n`);
    await Deno.chmod(path, 0o755);
    Deno.env.set(QEMU_IMG_VARIABLE, path);
    await test();
  } finally {
    if (before === undefined) Deno.env.delete(QEMU_IMG_VARIABLE);
    else Deno.env.set(QEMU_IMG_VARIABLE, before);
    await Deno.remove(path);
  }
}

Deno.test("output, errors and the status are returned, and long errors are cut", async () => {
  await withScript('echo "$@"; head -c 1000000 /dev/zero | tr "\\0" x >&2; exit 3', async () => {
    const { status, stdout, stderr } = await runQemuImg(["info", "a b"]);
    assertEquals([status, stdout, stderr.length], [3, "info a b\n", 65536]);
  });
});

Deno.test("progress is read however it is cut into pieces", async () => {
  const percents: number[] = [];
  await withScript(
    'printf "    (0.00/100%%)\\r    (12.5"; sleep 0.05; printf "0/100%%)\\r    (100.00/100%%)\\r\\n"',
    async () => {
      const { stdout } = await runQemuImg(["convert"], { onPercent: (percent) => percents.push(percent) });
      assertEquals([stdout, percents], ["", [0, 12.5, 100]]);
    },
  );
});

Deno.test("a signal ends qemu-img, also one that ignores TERM", async () => {
  for (const trap of ["", "trap '' TERM; "]) {
    await withScript(`${trap}echo $$ > "$1"; exec sleep 100`, async () => {
      const pidFile = await Deno.makeTempFile();
      const controller = new AbortController();
      const run = runQemuImg([pidFile], { signal: controller.signal });
      const pid = await numberIn(pidFile);
      const reason = new DOMException("ended by SIGINT", "AbortError");
      controller.abort(reason);
      assertEquals(await assertRejects(() => run), reason);
      assertThrows(() => Deno.kill(pid, "SIGKILL"), Deno.errors.NotFound);
      await Deno.remove(pidFile);
    });
  }
});

/** The number that a process writes into the file. */
async function numberIn(path: string): Promise<number> {
  for (;;) {
    const text = await Deno.readTextFile(path);
    if (text.endsWith("\n")) return Number(text);
    await new Promise((done) => setTimeout(done, 5));
  }
}

Deno.test("a measurement of the machine's speed that fails by chance is made again", async () => {
  const count = await Deno.makeTempFile();
  const script =
    `echo x >> ${count}; [ $(wc -l < ${count}) -ge 3 ] || { echo "Unable to get accurate CPU usage" >&2; exit 1; }`;
  await withScript(script, async () => {
    assertEquals((await makeByQemuImg(["create"])).status, 0);
    assertEquals(await Deno.readTextFile(count), "x\nx\nx\n");
  });
  await Deno.remove(count);
});

Deno.test("the program that the environment names looks at the headers, too", async () => {
  await withScript(`echo '{"backing-filename": "from the script"}'`, async () => {
    const tree = { driver: "qcow2", file: { driver: "file", filename: "/srv/disk" } };
    assertEquals((await new QemuImg().inspect(tree, "qcow2:/srv/disk")).backingFilename, "from the script");
  });
});

Deno.test("what takes too long is ended, and the remedy is its storage", async () => {
  await withScript("exec sleep 100", async () => {
    const error = await assertRejects(() => runQemuImg(["info"], { timeoutMs: 50 }), XenblkError);
    assertEquals(
      error.line,
      "Cannot run qemu-img info: its storage does not answer (qemu-img was ended after 0.05 s); check the device or file " +
        "server that the image is on",
    );
  });
});

Deno.test("qemu-img's errors lose its name and their repetitions", () => {
  const error = (stderr: string): string => qemuImgError("Cannot look at a", { status: 1, stdout: "", stderr }).line;
  assertEquals(
    error("qemu-img: Could not open './a': Could not open './a': Permission denied\n"),
    "Cannot look at a: Could not open './a': Permission denied; run it as a user who has the right",
  );
  assertEquals(
    error("qemu-img: Could not open 'a': Parameter 'encrypt.key-secret' is required for cipher\n"),
    "Cannot look at a: Could not open 'a': Parameter 'encrypt.key-secret' is required for cipher; name the file with " +
      "its passphrase: format=FORMAT,passphrase-file=FILE,target=PATH",
  );
  const why: Record<string, string> = {
    "Invalid password, cannot unlock any keyslot":
      "name the file with the right passphrase: all that it holds counts, a line's end included",
    "Volume is not in LUKS format": "name its real format: FORMAT:PATH",
    "Failed to load snapshot: Can't find snapshot": "name one that `xenblk image info` lists",
    "Failed to connect to 'h:1': Connection refused": "check the server that has it",
  };
  for (const [reason, remedy] of Object.entries(why)) {
    assertEquals(
      error(`qemu-img: Could not open 'json:{"driver":"raw","file":{"filename":"/it's: {a}"}}': ${reason}\n`),
      `Cannot look at a: ${reason}; ${remedy}`,
    );
  }
  assertEquals(error(""), "Cannot look at a: qemu-img ended with status 1");
  assert(
    isLocked({ stderr: "qemu-img: Could not open 'a': Failed to get shared \"write\" lock\nIs another process?" }),
  );
});

Deno.test("a program that may not be executed is named", async () => {
  await withScript("exit 0", async () => {
    await Deno.chmod(Deno.env.get(QEMU_IMG_VARIABLE)!, 0o644);
    const error = await assertRejects(() => runQemuImg(["info"]), XenblkError);
    assertEquals(error.remedy, `make it executable for this user, or name another in ${QEMU_IMG_VARIABLE}`);
  });
});
