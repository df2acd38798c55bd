/**
 * Cases of the other formats, after QEMU's own tests: writes that fit no block, the death of the daemon, subformats, logs
 * that have to be replayed, encryption.
 */

import { assert, assertEquals } from "@std/assert";
import { qemuImg } from "../qemu_img.ts";
import { type Case, KIB, MIB, type Pair, type Stage } from "./stage.ts";

/** Formats with the options that their images are made with, and the distance of their borders. */
const FORMATS: readonly (readonly [format: string, options: string, border: number])[] = [
  ["vmdk", "subformat=monolithicSparse", 64 * KIB],
  ["vdi", "", MIB],
  ["vdi", "static=on", MIB],
  ["vpc", "force_size=on", 2 * MIB],
  ["vpc", "subformat=fixed,force_size=on", 2 * MIB],
  ["vhdx", "subformat=dynamic,block_size=1M", MIB],
  ["vhdx", "subformat=fixed", MIB],
  ["qed", "cluster_size=4k", 4 * KIB],
  ["qcow", "", 4 * KIB],
  ["parallels", "", MIB],
];
const SIZE = 24 * MIB;

const SECRET = "of one word";

/** Makes an encrypted image. Deriving keys takes a while, and qemu-img fails now and then because the clock is coarse. */
async function encrypted(stage: Stage, format: string, size: number, ...more: string[]): Promise<Pair> {
  const secret = stage.path("secret");
  Deno.writeTextFileSync(secret, SECRET);
  const [first, path] = [format === "luks" ? "" : "encrypt.", stage.path(`locked.${format}`)];
  const kind = format === "luks" ? "" : "encrypt.format=luks,";
  const options = `${kind}${first}key-secret=s,${first}iter-time=10`;
  const args = ["create", "-q", "-f", format, "--object", `secret,id=s,file=${secret}`, "-o", options, ...more, path];
  for (let attempt = 1;; attempt++) {
    try {
      await qemuImg(...args, `${size}`);
      return stage.pairOf(format, path, size);
    } catch (error) {
      if (attempt === 5) throw error;
    }
  }
}

/** The image as raw, to be compared with its twin. */
async function decrypted(stage: Stage, { format, path, twin }: Pair): Promise<void> {
  const key = format === "luks" ? "key-secret=s" : "encrypt.key-secret=s";
  const image = `driver=${format},${key},file.filename=${path}`;
  const object = `secret,id=s,file=${stage.path("secret")}`;
  await qemuImg("compare", "-q", "--object", object, "--image-opts", `driver=raw,file.filename=${twin}`, image);
}

export const FORMAT_CASES: readonly Case[] = [
  ...FORMATS.map(([format, options, border]): Case => ({
    iotest: format === "vhdx" ? "regression-vhdx-log" : format === "vpc" ? "146" : format === "vdi" ? "084" : "003",
    shows: `${format}${options === "" ? "" : ` (${options})`}: writes over borders, and the daemon dies`,
    run: async (stage) => {
      const pair = await stage.pair(format, SIZE, options);
      await pair.use(async (disk) => {
        assertEquals(disk.disk.sizeBytes, SIZE);
        await disk.write(16 * MIB, 4 * KIB);
        for (const at of [border - 512, 3 * border - 4 * KIB, 6 * border]) await disk.write(at, 9 * KIB);
        await disk.disk.flush();
        await disk.write(7 * border - 512, border + 512);
        await stage.killDaemon();
        await disk.check(0, 12 * MIB);
        await disk.write(20 * MIB - 512, 1024);
      });
    },
  })),
  {
    iotest: "064",
    shows: "vhdx: data, and what was never written, are read back; writes keep their place",
    run: async (stage) => {
      const pair = await stage.pair("vhdx", 256 * MIB, "block_size=8M");
      await pair.use(async (disk) => {
        await disk.write(0, 3 * MIB);
        assert(await disk.isZero(128 * MIB, 4 * MIB));
        await disk.write(99 * MIB, 2 * MIB);
        await disk.check(98 * MIB, 4 * MIB);
        await disk.check(0, 8 * MIB);
      });
    },
  },
  {
    iotest: "070",
    shows: "vhdx: a log that has to be replayed is, by a writer; a reader is refused with what to do",
    run: async (stage) => {
      const path = await stage.create("vhdx", 64 * MIB);
      const pair = stage.pairOf("vhdx", path, 64 * MIB);
      await pair.use((disk) => disk.write(0, 4 * KIB));
      // The log is written, and what it describes (the block table, at 2 MiB) is not.
      const fault = { event: "none", iotype: "write", sector: 2 * MIB / 512 };
      const image = { driver: "file", filename: path };
      const file = { driver: "blkdebug", "inject-error": [fault], image };
      const { code } = await new Deno.Command("qemu-io", {
        args: ["-c", "write -P 7 32M 4k", `json:${JSON.stringify({ driver: "vhdx", file })}`],
        stdout: "null",
        stderr: "null",
      }).output();
      assertEquals(code, 1, "the write fails");
      await stage.refuses(`vhdx:${path}`, /its log has to be replayed/, { readOnly: true });
      await pair.use(async (disk) => {
        disk.note(32 * MIB, new Uint8Array(4 * KIB).fill(7));
        await disk.check(32 * MIB, 64 * KIB);
        await disk.check(0, 64 * KIB);
        await disk.write(33 * MIB, 4 * KIB);
      });
    },
  },
  {
    iotest: "131",
    shows: "parallels: an image that was not closed is repaired before it is written to",
    run: async (stage) => {
      const pair = await stage.pair("parallels", 64 * MIB);
      await pair.use((disk) => disk.write(32 * KIB, 128 * KIB));
      const args = ["-f", "parallels", "-c", "write -P 7 8M 64k", "-c", "flush", "-c", "abort", pair.path];
      await new Deno.Command("qemu-io", { args, stdout: "null", stderr: "null" }).output();
      await pair.use(async (disk) => {
        disk.note(8 * MIB, new Uint8Array(64 * KIB).fill(7));
        await disk.check(0, 16 * MIB);
        await disk.write(8 * MIB - 512, 1024);
      });
    },
  },
  {
    iotest: "059",
    shows: "vmdk streamOptimized is read; vmdk of several files is refused",
    run: async (stage) => {
      const pair = await stage.pair("qcow2", 4 * MIB);
      await pair.use((disk) => disk.write(MIB - 512, 2 * MIB));
      const path = stage.path("stream.vmdk");
      await qemuImg("convert", "-f", "qcow2", "-O", "vmdk", "-o", "subformat=streamOptimized", pair.path, path);
      const stream = stage.pairOf("vmdk", path, 4 * MIB);
      Deno.copyFileSync(pair.twin, stream.twin);
      await stream.use((disk) => disk.check(0, 4 * MIB));
      for (const subformat of ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"]) {
        const several = await stage.create("vmdk", MIB, `subformat=${subformat}`);
        await stage.refuses(`vmdk:${several}`, /vmdk of several files/);
      }
    },
  },
  {
    iotest: "149",
    shows: "luks: writes, the death of the daemon, the wrong passphrase and none",
    run: async (stage) => {
      const pair = await encrypted(stage, "luks", 4 * MIB);
      const name = `format=luks,passphrase-file=${stage.path("secret")},target=${pair.path}`;
      {
        await using disk = await stage.open(name);
        const data = new Uint8Array(MIB).fill(9);
        await disk.write(MIB - 512, data);
        await stage.killDaemon();
        assertEquals((await disk.read(MIB - 512, 512))[0], 9);
        using file = Deno.openSync(pair.twin, { write: true });
        file.seekSync(MIB - 512, Deno.SeekMode.Start);
        file.writeSync(data);
        file.seekSync(0, Deno.SeekMode.Start);
        file.writeSync(await disk.read(0, MIB - 512));
        file.seekSync(2 * MIB - 512, Deno.SeekMode.Start);
        file.writeSync(await disk.read(2 * MIB - 512, 2 * MIB + 512));
      }
      await decrypted(stage, pair);
      await stage.refuses(`luks:${pair.path}`, /is encrypted/);
      Deno.writeTextFileSync(stage.path("secret"), "another");
      await stage.refuses(name, /[Ii]nvalid password/);
    },
  },
  {
    iotest: "158",
    shows: "an encrypted qcow2 overlay of a plain base",
    run: async (stage) => {
      const base = await stage.pair("qcow2", 4 * MIB);
      await base.use((disk) => disk.write(0, 2 * MIB));
      const top = await encrypted(stage, "qcow2", 4 * MIB, "-b", base.path, "-F", "qcow2");
      Deno.copyFileSync(base.twin, top.twin);
      {
        const name = `format=qcow2,passphrase-file=${stage.path("secret")},target=${top.path}`;
        await using disk = await stage.open(name);
        const data = new Uint8Array(128 * KIB).fill(5);
        await disk.write(MIB - 512, data);
        using file = Deno.openSync(top.twin, { write: true });
        file.seekSync(MIB - 512, Deno.SeekMode.Start);
        file.writeSync(data);
      }
      await decrypted(stage, top);
      assert(!Deno.readFileSync(top.path).subarray(3 * MIB).some((_, i, all) => isRun(all, i)), "no plain text");
    },
  },
];

/** Eight equal bytes that are not zero. */
function isRun(bytes: Uint8Array, at: number): boolean {
  return bytes[at] === 5 && bytes.subarray(at, at + 16).every((byte) => byte === 5) && at + 16 <= bytes.length;
}
