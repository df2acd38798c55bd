/**
 * Cases of chains, after QEMU's own tests: backing files that are shorter or longer than their overlay, of other formats,
 * with odd names and sizes; copy on write; and chains that must be refused.
 */

import { assert, assertEquals } from "@std/assert";
import { qemuImg } from "../qemu_img.ts";
import { type Case, isZero, KIB, MIB, Pair, pattern, poke } from "./stage.ts";

/** Makes the header of an overlay name a backing file that qemu-img would refuse. */
async function rebase(path: string, backing: string, format: string): Promise<void> {
  await qemuImg("rebase", "-u", "-f", "qcow2", "-F", format, "-b", backing, path);
}

export const CHAIN_CASES: readonly Case[] = [
  {
    iotest: "017",
    shows: "a chain of five: each layer's data is read where no later one has any",
    run: async (stage) => {
      let pair = await stage.pair("qcow2", 8 * MIB);
      for (let layer = 0; layer < 5; layer++) {
        await pair.use((disk) => disk.write(layer * MIB + 512 * layer, 2 * MIB));
        pair = await stage.overlay(
          pair,
          ["", "cluster_size=4k", "extended_l2=on", "compat=0.10", "refcount_bits=1"][layer],
        );
      }
      await pair.use((disk) => disk.check(0, 8 * MIB));
    },
  },
  ...["raw", "vmdk", "vdi", "vhdx", "qed", "parallels"].map((format): Case => ({
    iotest: "017",
    shows: `an overlay of a ${format} image`,
    run: async (stage) => {
      const path = await stage.create(format, 8 * MIB);
      const base = stage.pairOf(format, path, 8 * MIB);
      await base.use(async (disk) => {
        await disk.write(0, 3 * MIB);
        await disk.write(5 * MIB + 512, MIB);
      }, format === "raw" ? `json:{"driver":"raw","file":{"driver":"file","filename":"${path}"}}` : undefined);
      const top = await stage.overlay(base);
      await top.use(async (disk) => {
        await disk.write(64 * KIB - 512, 1024);
        await disk.write(6 * MIB, 64 * KIB + 512);
        await disk.check(0, 8 * MIB);
      });
      await base.verify();
    },
  })),
  {
    iotest: "028",
    shows: "a backing file that is shorter than its overlay, and ends within a cluster",
    run: async (stage) => {
      const base = await stage.pair("qcow2", 4 * MIB + 3 * 512);
      await base.use((disk) => disk.write(4 * MIB - 32 * KIB, 32 * KIB + 3 * 512));
      const top = await stage.overlay(base, "", 8 * MIB);
      await top.use(async (disk) => {
        assert(await disk.isZero(4 * MIB + 3 * 512, MIB));
        for (let at = -32 * KIB; at < 32 * KIB; at += 2 * KIB) await disk.write(4 * MIB + at + 512, 512);
        await disk.check(3 * MIB, 3 * MIB);
      });
    },
  },
  {
    iotest: "274",
    shows: "a backing file that is longer than its overlay: the overlay ends where it says",
    run: async (stage) => {
      const base = await stage.pair("qcow2", 8 * MIB);
      await base.use((disk) => disk.write(0, 8 * MIB));
      const top = await stage.overlay(base, "", 3 * MIB + 512);
      await top.use(async (disk) => {
        assertEquals(disk.disk.sizeBytes, 3 * MIB + 512);
        await disk.check(2 * MIB, MIB + 512);
        await disk.write(3 * MIB - 512, 1024);
      });
      const third = await stage.overlay(top, "", 8 * MIB);
      await third.use(async (disk) => {
        assert(await disk.isZero(3 * MIB + 512, 4 * MIB), "the longer base does not show through");
        await disk.write(3 * MIB, 1024);
      });
    },
  },
  {
    iotest: "221",
    shows: "a raw backing file that is no multiple of a sector: its last bytes are read, and zeroes behind them",
    run: async (stage) => {
      const raw = stage.path("odd.raw");
      const data = pattern(65_540).subarray(0, 65_537);
      Deno.writeFileSync(raw, data);
      const path = await stage.create("qcow2", MIB, "", "-b", raw, "-F", "raw");
      const pair = stage.pairOf("qcow2", path, MIB);
      await pair.use(async (disk) => {
        disk.note(0, data);
        await disk.check(0, 128 * KIB);
        await disk.write(65 * KIB, 512);
      });
    },
  },
  {
    iotest: "037",
    shows: "copy on write: the rest of a cluster comes from the backing file",
    run: async (stage) => {
      const base = await stage.pair("qcow2", 8 * MIB);
      await base.use((disk) => disk.write(0, 4 * MIB));
      const top = await stage.overlay(base);
      await top.use(async (disk) => {
        for (let cluster = 0; cluster < 16; cluster++) await disk.write(cluster * 64 * KIB + cluster * 4 * KIB, 512);
        await disk.check(0, 4 * MIB);
      });
    },
  },
  {
    iotest: "038",
    shows: "copy on write of clusters that several requests in flight write to",
    run: async (stage) => {
      const base = await stage.pair("qcow2", 8 * MIB);
      await base.use((disk) => disk.write(0, 8 * MIB));
      const top = await stage.overlay(base, "cluster_size=2M");
      await top.use(async (disk) => {
        for (let round = 0; round < 8; round++) {
          await disk.writeAtOnce(Array.from({ length: 24 }, (_, i) => i * 256 * KIB + round * 9 * KIB), 4 * KIB);
        }
        await stage.killDaemon();
        await disk.check(0, 8 * MIB);
      });
    },
  },
  {
    iotest: "126",
    shows: "names with colons, spaces and commas",
    run: async (stage) => {
      const base = stage.pairOf("qcow2", stage.path("a:b,c d.qcow2"), 4 * MIB);
      await qemuImg("create", "-q", "-f", "qcow2", base.path, "4M");
      await base.use((disk) => disk.write(MIB, MIB));
      const path = stage.path("top.qcow2");
      await qemuImg("create", "-q", "-f", "qcow2", path, "4M");
      await rebase(path, "./a:b,c d.qcow2", "qcow2");
      const top = new Pair(stage, "qcow2", path, 4 * MIB, base.twin);
      await top.use(async (disk) => {
        await disk.check(0, 4 * MIB);
        await disk.write(MIB - 512, 1024);
      });
    },
  },
  {
    iotest: "110",
    shows: "a relative backing file is beside its overlay",
    run: async (stage) => {
      Deno.mkdirSync(stage.path("sub"));
      await qemuImg("create", "-q", "-f", "qcow2", stage.path("sub/base.qcow2"), "4M");
      const base = stage.pairOf("qcow2", stage.path("sub/base.qcow2"), 4 * MIB);
      await base.use((disk) => disk.write(MIB, MIB));
      const path = stage.path("top.qcow2");
      await qemuImg("create", "-q", "-f", "qcow2", "-b", "sub/base.qcow2", "-F", "qcow2", path);
      await new Pair(stage, "qcow2", path, 4 * MIB, base.twin).use((disk) => disk.check(0, 4 * MIB));
    },
  },
  {
    iotest: "171",
    shows: "a window of a raw file by json:, and none that is larger than the file",
    run: async (stage) => {
      const raw = stage.path("whole.raw");
      const before = pattern(4 * MIB);
      Deno.writeFileSync(raw, before);
      const window = (size: number): string =>
        `json:${JSON.stringify({ driver: "raw", offset: MIB, size, file: { driver: "file", filename: raw } })}`;
      const data = pattern(64 * KIB);
      {
        await using disk = await stage.open(window(2 * MIB));
        assertEquals(disk.sizeBytes, 2 * MIB);
        await disk.write(2 * MIB - 64 * KIB, data);
        assert(await disk.tryWrite(2 * MIB, data) !== 0);
      }
      before.set(data, 3 * MIB - 64 * KIB);
      assertEquals(Deno.readFileSync(raw).every((byte, i) => byte === before[i]), true);
      await stage.refuses(window(4 * MIB), /offset and size|size/i);
    },
  },
  {
    iotest: "043",
    shows: "a chain that comes back to an image is refused: to itself, and over three",
    run: async (stage) => {
      const [one, two, three] = await Promise.all([1, 2, 3].map(() => stage.create("qcow2", MIB)));
      await rebase(one!, one!, "qcow2");
      await stage.refuses(`qcow2:${one}`, /comes back to/);
      await rebase(one!, two!, "qcow2");
      await rebase(two!, three!, "qcow2");
      await rebase(three!, one!, "qcow2");
      await stage.refuses(`qcow2:${one}`, /comes back to/);
    },
  },
  {
    iotest: "049",
    shows: "a backing file that is missing is refused",
    run: async (stage) => {
      const path = await stage.create("qcow2", MIB);
      await rebase(path, stage.path("gone.qcow2"), "qcow2");
      await stage.refuses(`qcow2:${path}`, /backing file .*gone\.qcow2 does not exist/);
    },
  },
  {
    iotest: "114",
    shows: "a backing file of a format that nobody knows, and one of another format than the header says",
    run: async (stage) => {
      const base = await stage.create("qcow2", MIB);
      const path = await stage.create("qcow2", MIB, "", "-b", base, "-F", "qcow2");
      const header = Deno.readFileSync(path);
      // The extension with the format: its type, its length, its text.
      const at = header.findIndex((_, i) => header[i] === 0xE2 && header[i + 1] === 0x79 && header[i + 2] === 0x2A);
      poke(path, at + 8, [..."qcowx"].map((letter) => letter.charCodeAt(0)));
      await stage.refuses(`qcow2:${path}`, /format qcowx, which is unknown/);
      await rebase(path, base, "vmdk");
      await stage.refuses(`qcow2:${path}`, /not in VMDK format|VMDK|invalid/i);
    },
  },
  {
    iotest: "088",
    shows: "a raw image that begins like a qcow2 stays raw below an overlay that says so",
    run: async (stage) => {
      const inner = await stage.create("qcow2", MIB);
      const size = Deno.statSync(inner).size;
      const path = await stage.create("qcow2", size, "", "-b", inner, "-F", "raw");
      await using disk = await stage.open(`qcow2:${path}`);
      const start = await disk.read(0, 512);
      assertEquals(new TextDecoder().decode(start.subarray(0, 3)), "QFI");
      assert(!isZero(start));
    },
  },
];
