/**
 * Cases of reads and writes on qcow2 images, after QEMU's own tests of the format: sizes that fit no cluster, chains,
 * compressed clusters, zeroes, discards, options of the format.
 */

import { assert, assertEquals, assertLess } from "@std/assert";
import { qemuImg } from "../qemu_img.ts";
import { type Case, GIB, isSame, isZero, KIB, MIB, pattern, TIB } from "./stage.ts";

/** `json:` with zeroes that become write-zeroes operations. */
function detecting(path: string): string {
  const file = { driver: "file", filename: path };
  return `json:${JSON.stringify({ driver: "qcow2", "detect-zeroes": "unmap", file })}`;
}

/** Writes around each border of the given distance. */
function around(border: number): readonly (readonly [offset: number, length: number])[] {
  return [
    [border - 512, 1024],
    [2 * border, border],
    [3 * border - 1536, 512],
    [4 * border + 512, border],
    [6 * border - 512, 2 * border + 1024],
  ];
}

const CLUSTERS = [512, 2 * KIB, 4 * KIB, 64 * KIB, 2 * MIB];

export const QCOW2_CASES: readonly Case[] = [
  {
    iotest: "002",
    shows: "reads and writes of odd numbers of sectors at odd sectors",
    run: async (stage) => {
      const pair = await stage.pair("qcow2", 16 * MIB);
      await pair.use(async (disk) => {
        for (const [at, sectors] of [[1, 1], [7, 129], [300, 3], [2047, 515]]) {
          await disk.write(at! * 512, sectors! * 512);
        }
        for (const [at, sectors] of [[0, 9], [8, 127], [299, 5], [2000, 700]]) {
          await disk.check(at! * 512, sectors! * 512);
        }
      });
    },
  },
  {
    iotest: "004",
    shows: "requests beyond the end fail, and change nothing",
    run: async (stage) => {
      const pair = await stage.pair("qcow2", MIB);
      await pair.use(async ({ disk }) => {
        for (const offset of [MIB - 512, MIB, 2 ** 52]) {
          assert(await disk.tryRead(offset, new Uint8Array(1024)) !== 0, `read at ${offset}`);
          assert(await disk.tryWrite(offset, new Uint8Array(1024).fill(1)) !== 0, `write at ${offset}`);
        }
      });
    },
  },
  ...CLUSTERS.map((cluster): Case => ({
    iotest: "023",
    shows: `clusters of ${cluster} bytes: writes before, on and over their borders`,
    run: async (stage) => {
      const pair = await stage.pair("qcow2", 32 * MIB, `cluster_size=${cluster}`);
      await pair.use(async (disk) => {
        for (const [offset, length] of around(cluster)) await disk.write(offset, length);
        await disk.check(0, 9 * cluster);
      });
    },
  })),
  {
    iotest: "027",
    shows: "a write that is smaller than its new cluster leaves the rest of it zero",
    run: async (stage) => {
      const pair = await stage.pair("qcow2", 16 * MIB);
      await pair.use(async (disk) => {
        await disk.write(64 * KIB + 4 * KIB, 4 * KIB);
        assert(await disk.isZero(64 * KIB, 4 * KIB) && await disk.isZero(72 * KIB, 56 * KIB));
      });
    },
  },
  {
    iotest: "013",
    shows: "compressed clusters are read, and overwritten in part",
    run: async (stage) => {
      const pair = await stage.pair("qcow2", 8 * MIB);
      await pair.use(async (disk) => {
        for (let at = 0; at < 8 * MIB; at += MIB) await disk.put(at, new Uint8Array(MIB).fill(1 + at / MIB));
      });
      const path = stage.path("compressed.qcow2");
      await qemuImg("convert", "-c", "-f", "qcow2", "-O", "qcow2", pair.path, path);
      const compressed = stage.pairOf("qcow2", path, 8 * MIB);
      Deno.copyFileSync(pair.twin, compressed.twin);
      assertLess(compressed.usedBytes, MIB);
      await compressed.use(async (disk) => {
        await disk.check(0, 8 * MIB);
        for (const [offset, length] of around(64 * KIB)) await disk.write(offset, length);
        await disk.check(0, 2 * MIB);
      });
    },
  },
  {
    iotest: "287",
    shows: "clusters compressed by zstd are read and overwritten",
    run: async (stage) => {
      const raw = stage.path("data.raw");
      Deno.writeFileSync(raw, new Uint8Array(2 * MIB).map((_, i) => i >> 12));
      const path = stage.path("zstd.qcow2");
      await qemuImg("convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", "-f", "raw", raw, path);
      const pair = stage.pairOf("qcow2", path, 2 * MIB);
      Deno.copyFileSync(raw, pair.twin);
      await pair.use(async (disk) => {
        await disk.check(0, 2 * MIB);
        await disk.write(MIB - 512, 1024);
      });
    },
  },
  {
    iotest: "053",
    shows: "a size that is no multiple of a cluster: its last cluster is whole",
    run: async (stage) => {
      const size = 3 * MIB + 5 * 512;
      const pair = await stage.pair("qcow2", size);
      await pair.use(async (disk) => {
        assertEquals(disk.disk.sizeBytes, size);
        await disk.write(3 * MIB - 512, 6 * 512);
        await disk.check(3 * MIB, 5 * 512);
      });
    },
  },
  {
    iotest: "035",
    shows: "requests in flight at once for many L2 tables",
    run: async (stage) => {
      const pair = await stage.pair("qcow2", 32 * MIB, "cluster_size=512");
      await pair.use(async (disk) => {
        for (let round = 0; round < 4; round++) {
          await disk.writeAtOnce(Array.from({ length: 24 }, (_, i) => i * MIB + round * 33 * KIB), 1536);
        }
      });
    },
  },
  {
    iotest: "046",
    shows: "requests in flight that allocate the same clusters, and overlap",
    run: async (stage) => {
      const pair = await stage.pair("qcow2", 16 * MIB);
      await pair.use(async (disk) => {
        for (const step of [512, 32 * KIB, 60 * KIB]) {
          await disk.writeAtOnce(Array.from({ length: 20 }, (_, i) => 4 * MIB + i * step), 64 * KIB);
          await disk.check(4 * MIB, 2 * MIB);
        }
      });
    },
  },
  {
    iotest: "121",
    shows: "the refcount structures grow",
    run: async (stage) => {
      const pair = await stage.pair("qcow2", 64 * MIB, "cluster_size=1k,refcount_bits=64");
      await pair.use(async (disk) => {
        for (let at = 0; at < 24 * MIB; at += MIB) await disk.write(at, MIB);
      });
    },
  },
  ...[1, 2, 4, 8, 32, 64].map((bits): Case => ({
    iotest: "112",
    shows: `refcounts of ${bits} bits: writes, discards, and writes again`,
    run: async (stage) => {
      const pair = await stage.pair("qcow2", 16 * MIB, `refcount_bits=${bits}`);
      await pair.use(async (disk) => {
        await disk.write(0, 4 * MIB);
        await disk.discard(512 * KIB, 2 * MIB);
        await disk.write(MIB, MIB);
        await disk.check(0, 4 * MIB);
      });
    },
  })),
  {
    iotest: "036",
    shows: "compat 0.10: writes and discards",
    run: async (stage) => {
      const pair = await stage.pair("qcow2", 16 * MIB, "compat=0.10");
      await pair.use(async (disk) => {
        for (const [offset, length] of around(64 * KIB)) await disk.write(offset, length);
        await disk.discard(64 * KIB, 256 * KIB);
      });
    },
  },
  ...["0.10", "1.1"].map((compat): Case => ({
    iotest: "290",
    shows: `a discard frees clusters of the file, compat ${compat}`,
    run: async (stage) => {
      const pair = await stage.pair("qcow2", 16 * MIB, `compat=${compat}`);
      await pair.use(async (disk) => {
        await disk.write(0, 8 * MIB);
        await disk.disk.flush();
        const before = pair.usedBytes;
        await disk.discard(MIB, 6 * MIB);
        assert(await disk.isZero(MIB, 6 * MIB), "whole clusters are zero");
        await disk.disk.flush();
        assertLess(pair.usedBytes, before - 5 * MIB, "the file got smaller");
      });
    },
  })),
  {
    iotest: "250",
    shows: "discards over the borders of clusters keep what lies beside them",
    run: async (stage) => {
      const pair = await stage.pair("qcow2", 64 * MIB);
      await pair.use(async (disk) => {
        await disk.write(0, 32 * MIB);
        await disk.discard(64 * KIB - 512, 1024);
        await disk.discard(MIB + 512, 512);
        await disk.discard(2 * MIB + 4 * KIB, 20 * MIB + 512);
        await disk.check(0, 32 * MIB);
      });
    },
  },
  {
    iotest: "090",
    shows: "compressed clusters are discarded",
    run: async (stage) => {
      const raw = stage.path("data.raw");
      Deno.writeFileSync(raw, new Uint8Array(2 * MIB).map((_, i) => i >> 10));
      const path = stage.path("compressed.qcow2");
      await qemuImg("convert", "-c", "-f", "raw", "-O", "qcow2", raw, path);
      const pair = stage.pairOf("qcow2", path, 2 * MIB);
      Deno.copyFileSync(raw, pair.twin);
      await pair.use(async (disk) => {
        await disk.discard(128 * KIB, 640 * KIB);
        await disk.write(256 * KIB + 512, 512);
        await disk.check(0, 2 * MIB);
      });
    },
  },
  {
    iotest: "033",
    shows: "zeroes that fit no cluster, as write-zeroes operations",
    run: async (stage) => {
      const pair = await stage.pair("qcow2", 16 * MIB);
      await pair.use(async (disk) => {
        await disk.write(0, 2 * MIB);
        for (const [offset, length] of around(64 * KIB)) await disk.zero(offset, length);
        await disk.check(0, 2 * MIB);
      }, detecting(pair.path));
    },
  },
  {
    iotest: "154",
    shows: "zeroes over data of a backing file: whole clusters, and parts of them",
    run: async (stage) => {
      const base = await stage.pair("qcow2", 8 * MIB);
      await base.use((disk) => disk.write(0, 4 * MIB));
      const top = await stage.overlay(base);
      await top.use(async (disk) => {
        await disk.zero(64 * KIB, 128 * KIB);
        await disk.zero(MIB + 512, 1024);
        await disk.zero(2 * MIB - 512, 65 * KIB);
        await disk.write(64 * KIB + 512, 512);
        await disk.check(0, 4 * MIB);
      }, detecting(top.path));
      assertLess(top.usedBytes, MIB, "zeroes take no clusters");
      await base.verify();
    },
  },
  {
    iotest: "271",
    shows: "subclusters: data, zeroes and discards in one cluster",
    run: async (stage) => {
      const base = await stage.pair("qcow2", 8 * MIB);
      await base.use((disk) => disk.write(0, MIB));
      const top = await stage.overlay(base, "extended_l2=on,cluster_size=128k");
      await top.use(async (disk) => {
        await disk.write(4 * KIB, 4 * KIB);
        await disk.write(10 * KIB, 512);
        await disk.zero(16 * KIB, 8 * KIB);
        await disk.discard(128 * KIB, 128 * KIB);
        await disk.write(128 * KIB + 12 * KIB, 1024);
        await disk.check(0, MIB);
      }, detecting(top.path));
      assertLess(top.usedBytes, 640 * KIB, "no cluster was copied as a whole");
    },
  },
  {
    iotest: "039",
    shows: "lazy refcounts: the daemon dies, and the image is sound afterwards",
    run: async (stage) => {
      const pair = await stage.pair("qcow2", 16 * MIB, "lazy_refcounts=on");
      await pair.use(async (disk) => {
        await disk.write(0, MIB);
        await stage.killDaemon();
        await disk.check(0, MIB);
        await disk.write(2 * MIB, MIB);
      });
    },
  },
  ...["metadata", "falloc", "full"].map((mode): Case => ({
    iotest: "243",
    shows: `preallocation=${mode}: writes, and discards give space back`,
    run: async (stage) => {
      const pair = await stage.pair("qcow2", 8 * MIB, `preallocation=${mode}`);
      await pair.use(async (disk) => {
        assert(await disk.isZero(0, 8 * MIB));
        await disk.write(MIB - 512, 2 * MIB);
        await disk.discard(4 * MIB, 4 * MIB);
        await disk.check(0, 8 * MIB);
      });
    },
  })),
  {
    iotest: "244",
    shows: "an external data file that is raw has the disk's bytes",
    run: async (stage) => {
      const pair = await stage.pair("qcow2", 8 * MIB, "data_file=DIR/data.raw,data_file_raw=on");
      await pair.use(async (disk) => {
        await disk.write(MIB - 512, 2 * MIB);
        await disk.discard(MIB, MIB);
      });
      const [data, twin] = [stage.path("data.raw"), pair.twin].map((path) => Deno.readFileSync(path));
      assert(isSame(data!, twin!));
    },
  },
  {
    iotest: "270",
    shows: "a long write to an external data file, and what a dead daemon had of it",
    run: async (stage) => {
      const pair = await stage.pair("qcow2", 64 * MIB, "cluster_size=2M,data_file=DIR/data.raw");
      await pair.use(async (disk) => {
        await disk.write(512, 12 * MIB);
        await stage.killDaemon();
        await disk.check(0, 16 * MIB);
      });
    },
  },
  {
    iotest: "105",
    shows: "an image of 16 TiB: writes at its end",
    run: async (stage) => {
      const pair = await stage.pair("qcow2", 4 * TIB);
      const path = await stage.create("qcow2", 16 * TIB);
      await pair.use(async (disk) => {
        await disk.write(4 * TIB - MIB, MIB);
        await disk.write(2 * TIB + 512, 4 * KIB);
        await disk.check(2 * TIB, 64 * KIB);
      });
      const data = pattern(MIB);
      {
        await using disk = await stage.open(`qcow2:${path}`);
        await disk.write(14 * TIB, data);
      }
      await using again = await stage.open(`qcow2:${path}`);
      assertEquals(again.sizeBytes, 16 * TIB);
      assert(isSame(await again.read(14 * TIB, MIB), data) && isZero(await again.read(14 * TIB + MIB, MIB)));
    },
  },
  {
    iotest: "062",
    shows: "writes after an internal snapshot leave the snapshot as it is",
    run: async (stage) => {
      const pair = await stage.pair("qcow2", 8 * MIB);
      await pair.use(async (disk) => {
        await disk.write(0, 2 * MIB);
        await disk.discard(0, 64 * KIB);
      });
      await qemuImg("snapshot", "-c", "one", pair.path);
      const before = stage.path("before.raw");
      Deno.copyFileSync(pair.twin, before);
      await pair.use(async (disk) => {
        await disk.write(MIB - 512, 128 * KIB);
        await disk.discard(512 * KIB, 256 * KIB);
        await stage.killDaemon();
        await disk.check(0, 2 * MIB);
      });
      const snapshot = stage.path("snapshot.raw");
      await qemuImg("convert", "-l", "snapshot.name=one", "-f", "qcow2", "-O", "raw", pair.path, snapshot);
      await qemuImg("compare", "-q", "-f", "raw", "-F", "raw", before, snapshot);
    },
  },
  {
    iotest: "qemu-img-bitmaps",
    shows: "a persistent dirty bitmap of the image notes what the guest writes",
    run: async (stage) => {
      const pair = await stage.pair("qcow2", 8 * MIB);
      await qemuImg("bitmap", "--add", "-f", "qcow2", pair.path, "one");
      await pair.use((disk) => disk.write(MIB, MIB));
      const info = JSON.parse(await qemuImg("info", "--output=json", pair.path));
      const [bitmap] = info["format-specific"].data.bitmaps;
      assertEquals([bitmap.name, bitmap.flags], ["one", ["auto"]], "it is consistent");
    },
  },
  {
    iotest: "008",
    shows: "a flush between writes, hundreds of requests, and a size of 5 GiB",
    run: async (stage) => {
      const pair = await stage.pair("qcow2", 5 * GIB);
      await pair.use(async (disk) => {
        for (let round = 0; round < 10; round++) {
          await disk.writeAtOnce(Array.from({ length: 24 }, (_, i) => (i + round) * 150 * MIB + 512 * i), 4 * KIB);
          await disk.disk.flush();
        }
        await disk.check(150 * MIB, 64 * KIB);
      });
    },
  },
];
