/**
 * Named cases after QEMU's own tests of image formats (tests/qemu-iotests), through the engine: the chain is found, a
 * daemon opens the image, requests go by vhost-user-blk and the write log. Afterwards the image is sound and holds what a
 * raw twin holds.
 */

import { EngineRig } from "../qemu/engine_rig.ts";
import { daemonTest } from "../qemu/rig.ts";
import { BROKEN_CASES } from "./broken_cases.ts";
import { CHAIN_CASES } from "./chain_cases.ts";
import { FORMAT_CASES } from "./format_cases.ts";
import { QCOW2_CASES } from "./qcow2_cases.ts";
import { type Case, Stage } from "./stage.ts";

const TABLES: readonly (readonly [what: string, cases: readonly Case[]])[] = [
  ["qcow2", QCOW2_CASES],
  ["chains", CHAIN_CASES],
  ["other formats", FORMAT_CASES],
  ["damage", BROKEN_CASES],
];

for (const [what, cases] of TABLES) {
  daemonTest(`cases after QEMU's own tests: ${what}`, async (context) => {
    await using rig = new EngineRig();
    for (const { iotest, shows, run } of cases) {
      await context.step(`iotest ${iotest}: ${shows}`, async () => {
        using stage = new Stage(rig);
        await run(stage);
      });
    }
  });
}
