/**
 * The short form of `deno task image-comparison`: some thousand random requests on a chain of qcow2 images beside a twin,
 * while daemons die and the disk grows.
 */

import { assertGreater } from "@std/assert";
import { compare, LAYERS } from "./comparison.ts";
import { daemonTest } from "./rig.ts";

daemonTest(
  "5000 random requests on a qcow2 chain find what was written, while daemons die and the disk grows and is reopened",
  async () => {
    const result = await compare({
      seed: Math.floor(Math.random() * 2 ** 31),
      requestsPerLayer: 1250,
      layers: LAYERS.slice(0, 4),
      sizeBytes: 32 << 20,
      resizes: 5,
      killEvery: 600,
      reopenEvery: 800,
    });
    assertGreater(result.kills, 0);
    assertGreater(result.resizes, 0);
    assertGreater(result.readsOverOldEnd, 0);
    assertGreater(result.compares, result.reads / 4);
  },
);
