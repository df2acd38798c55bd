/**
 * A disk in TypeScript, as a plugin, that turns hostile at its hundredth read. Its target says how: `loops`, `is silent`,
 * `exits` or `takes memory`.
 */

import { defineDisk, type DiskMethods } from "../../../mod.ts";

const KEPT: Uint8Array[] = [];

const HOW: Readonly<Record<string, () => Promise<void>>> = {
  "loops": () => {
    for (;;);
  },
  "is silent": () => new Promise(() => {}),
  "exits": () => Deno.exit(1),
  "takes memory": () => {
    for (;;) KEPT.push(new Uint8Array(8 << 20).fill(1));
  },
};

export default defineDisk({
  open(how): DiskMethods {
    let reads = 0;
    return {
      sizeBytes: 64 << 20,
      read: (_offset, into) => ++reads < 100 ? void into.fill(1) : HOW[how]!(),
    };
  },
});
