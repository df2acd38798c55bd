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

const CASES: readonly Case[] = [...QCOW2_CASES, ...CHAIN_CASES, ...FORMAT_CASES, ...BROKEN_CASES];

for (const { iotest, shows, run } of CASES) {
  daemonTest(`iotest ${iotest}: ${shows}`, async () => {
    await using rig = new EngineRig();
    using stage = new Stage(rig);
    await run(stage);
  });
}
