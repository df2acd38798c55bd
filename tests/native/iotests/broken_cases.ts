/**
 * Cases of images that are damaged, claim absurd things, or whose storage fails, after QEMU's own tests: what is refused
 * says why, and what happens while a guest uses the disk costs it an error and no other data.
 */

import { assert, assertEquals, assertLess } from "@std/assert";
import { qemuImg } from "../qemu_img.ts";
import { bytesOf, type Case, isSame, KIB, MIB, pattern, poke, type Stage } from "./stage.ts";
import { command } from "../qemu/rig.ts";

/** A lie in a header: where, and what. */
type Lie = readonly [offset: number, bytes: readonly number[]];

/** Each lie alone makes the image be refused. */
async function refusesLies(stage: Stage, format: string, lies: readonly Lie[], size = 16 * MIB): Promise<void> {
  const good = await stage.create(format, size);
  for (const [offset, bytes] of lies) {
    const path = stage.path(`lie-${offset}.${format}`);
    Deno.copyFileSync(good, path);
    poke(path, offset, bytes);
    await stage.refuses(`${format}:${path}`, /^Cannot open image /);
  }
}

const huge = (count: number): number[] => bytesOf((1n << BigInt(8 * count)) - 1n, count);

/** Cuts a file. */
function cut(path: string, size: number): void {
  using file = Deno.openSync(path, { write: true });
  file.truncateSync(size);
}

export const BROKEN_CASES: readonly Case[] = [
  {
    iotest: "080",
    shows: "qcow2 headers that claim absurd sizes are refused",
    run: (stage) =>
      refusesLies(stage, "qcow2", [
        [4, bytesOf(9n, 4)], // version
        [20, bytesOf(40n, 4)], // cluster bits
        [24, huge(8)], // size
        [36, huge(4)], // entries of the L1 table
        [40, huge(8)], // where it is
        [48, huge(8)], // where the refcount table is
        [56, huge(4)], // its clusters
        [60, huge(4)], // snapshots
        [72, bytesOf(1n << 60n, 8)], // incompatible features
        [96, bytesOf(9n, 4)], // order of refcounts
        [100, huge(4)], // length of the header
      ]),
  },
  {
    iotest: "116",
    shows: "qed headers that claim absurd sizes are refused",
    run: (stage) =>
      refusesLies(stage, "qed", [
        [4, bytesOf(0n, 4)], // cluster size
        [8, huge(4)], // table size
        [12, huge(4)], // header size
        [16, bytesOf(1n << 7n, 8, true)], // features
        [48, huge(8)], // image size
      ]),
  },
  {
    iotest: "084",
    shows: "vdi headers that claim absurd sizes are refused",
    run: (stage) =>
      refusesLies(stage, "vdi", [
        [368, huge(8)], // size
        [376, bytesOf(0xfffffn, 4, true)], // block size
        [384, bytesOf(3n, 4, true)], // blocks
      ]),
  },
  {
    iotest: "076",
    shows: "parallels headers that claim absurd sizes are refused",
    run: (stage) =>
      refusesLies(stage, "parallels", [
        [28, bytesOf(0n, 4)], // sectors of a block
        [28, huge(4)],
        [32, huge(4)], // entries of the table
      ]),
  },
  {
    iotest: "135",
    shows: "vpc headers that claim absurd sizes are refused",
    run: (stage) =>
      refusesLies(stage, "vpc", [
        [512 + 28, huge(4)], // entries of the table
        [512 + 32, bytesOf(0n, 4)], // block size
      ]),
  },
  {
    iotest: "059",
    shows: "vmdk headers that claim absurd sizes are refused",
    run: (stage) =>
      refusesLies(stage, "vmdk", [
        [12, huge(8)], // capacity
        [20, bytesOf(0xffffffffn, 8, true)], // grain size
        [44, bytesOf(0n, 4, true)], // entries of a grain table
      ]),
  },
  {
    iotest: "174",
    shows: "an image of another format, and one that is missing, are refused",
    run: async (stage) => {
      const raw = stage.path("data.raw");
      Deno.writeFileSync(raw, pattern(256 * KIB));
      for (const format of ["qcow2", "vmdk", "vdi", "vhdx", "qed", "vpc", "parallels", "luks"]) {
        await stage.refuses(`${format}:${raw}`, /^Cannot open image /);
        await stage.refuses(`${format}:${stage.path("missing")}`, /there is no such file/);
      }
    },
  },
  {
    iotest: "042",
    shows: "an image of no bytes, and one that was cut within its header, are refused",
    run: async (stage) => {
      const empty = await stage.create("qcow2", 0);
      await stage.refuses(`qcow2:${empty}`, /a disk of no bytes/);
      const short = await stage.create("qcow2", MIB);
      for (const size of [0, 60, 200]) {
        cut(short, size);
        await stage.refuses(`qcow2:${short}`, /^Cannot open image /);
      }
    },
  },
  {
    iotest: "060",
    shows: "an image that is marked as corrupt is refused, with what to do",
    run: async (stage) => {
      const path = await stage.create("qcow2", MIB);
      poke(path, 72, bytesOf(2n, 8));
      await stage.refuses(`qcow2:${path}`, /is marked as damaged/);
    },
  },
  {
    iotest: "060",
    shows: "a write that would damage metadata fails, the image is marked, and other data stays",
    run: async (stage) => {
      const pair = await stage.pair("qcow2", 16 * MIB);
      await pair.use((disk) => disk.write(0, MIB));
      // The L2 entry of the first cluster names the refcount block: L1 at byte 40 of the header.
      const header = new DataView(Deno.readFileSync(pair.path).buffer);
      const table = Number(header.getBigUint64(Number(header.getBigUint64(40))) & 0x00fffffffffffe00n);
      const block = header.getBigUint64(Number(header.getBigUint64(48)));
      poke(pair.path, table, bytesOf(block | (1n << 63n), 8));
      {
        await using disk = await stage.open(`qcow2:${pair.path}`);
        assertEquals(await disk.tryWrite(0, pattern(4 * KIB)), -5);
        assertEquals(await disk.tryWrite(MIB / 2, pattern(4 * KIB)), -5, "nothing more is written");
      }
      await stage.refuses(`qcow2:${pair.path}`, /is marked as damaged/);
    },
  },
  {
    iotest: "039",
    shows: "an image that was left dirty is repaired when it is opened, and clean when it is closed",
    run: async (stage) => {
      const pair = await stage.pair("qcow2", 16 * MIB, "lazy_refcounts=on");
      const args = ["-f", "qcow2", "-c", "write -P 7 1M 64k", "-c", "flush", "-c", "abort", pair.path];
      await new Deno.Command("qemu-io", { args, stdout: "null", stderr: "null" }).output();
      const isDirty = async (): Promise<boolean> =>
        JSON.parse(await qemuImg("info", "--output=json", pair.path))["dirty-flag"];
      assertEquals(await isDirty(), true);
      await pair.use(async (disk) => {
        disk.note(MIB, new Uint8Array(64 * KIB).fill(7));
        await disk.check(0, 2 * MIB);
        await disk.write(3 * MIB, 64 * KIB);
      });
      assertEquals(await isDirty(), false);
    },
  },
  {
    iotest: "153",
    shows: "an image that another program has open for writing is refused, and served when that has ended",
    run: async (stage) => {
      const pair = await stage.pair("qcow2", MIB);
      const holder = new Deno.Command("qemu-io", { args: ["-f", "qcow2", pair.path], stdin: "piped", stdout: "piped" })
        .spawn();
      const output = holder.stdout.getReader();
      await output.read(); // its prompt
      await stage.refuses(`qcow2:${pair.path}`, /lock/i);
      await holder.stdin.close();
      await output.cancel();
      await holder.status;
      await pair.use((disk) => disk.write(0, 64 * KIB));
    },
  },
  {
    iotest: "026",
    shows: "the file system below is full: writes fail, what was written stays, and room lets the disk go on",
    run: async (stage) => {
      const small = stage.path("small");
      Deno.mkdirSync(small);
      await command("mount", "-t", "tmpfs", "-o", "size=2m", "xenblk-test", small);
      try {
        const path = `${small}/disk.qcow2`;
        await qemuImg("create", "-q", "-f", "qcow2", path, "16M");
        const pair = stage.pairOf("qcow2", path, 16 * MIB);
        await pair.use(async (disk) => {
          let at = 0;
          let result = 0;
          while (result === 0) {
            assertLess(at, 4 * MIB);
            const data = pattern(64 * KIB);
            result = await disk.disk.tryWrite(at, data);
            if (result === 0) disk.note(at, data);
            at += 64 * KIB;
          }
          await disk.check(0, at - 64 * KIB);
          await disk.write(512, 64 * KIB - 512); // allocated before
          await command("mount", "-o", "remount,size=8m", small);
          await disk.write(at - 64 * KIB, 2 * MIB);
          assertEquals(await disk.disk.tryFlush(), 0);
          await stage.killDaemon();
          await disk.check(0, at + 2 * MIB - 64 * KIB);
        });
      } finally {
        await command("umount", small);
      }
    },
  },
  {
    iotest: "file-io-error",
    shows: "reads that fail cost an error each, and other reads nothing",
    run: async (stage) => {
      const raw = stage.path("data.raw");
      const data = pattern(4 * MIB);
      Deno.writeFileSync(raw, data);
      const fault = { event: "none", iotype: "read", sector: MIB / 512, errno: 5 };
      const image = { driver: "file", filename: raw };
      const name = `json:${JSON.stringify({ driver: "blkdebug", "inject-error": [fault], image })}`;
      await using disk = await stage.open(name);
      for (let round = 0; round < 3; round++) {
        assertEquals(await disk.tryRead(MIB - 512, new Uint8Array(1024)), -5);
        assert(isSame(await disk.read(2 * MIB, 64 * KIB), data.subarray(2 * MIB, 2 * MIB + 64 * KIB)));
      }
    },
  },
];
