/**
 * The chain of a guest's snapshots under verified load, by the verbs that keep it short on a host: one is given up in the
 * middle, the oldest ones in the background, across a kill of `serve`; and the guest leaves the image that it shares.
 */

import { assertEquals, assertRejects } from "@std/assert";
import { nativeTest } from "../harness.ts";
import { qemuImg } from "../qemu_img.ts";
import { detach } from "./backend.ts";
import { FormatStage } from "./format_stage.ts";
import { assertClean, assertProgress, GUEST, received, UNTIL_STOPPED } from "./scenes.ts";

const CLI = new URL("../../../cli.ts", import.meta.url).pathname;
const WAIT_MS = 40_000;

function xenblk(stage: FormatStage, ...args: string[]): Promise<string> {
  return stage.xen.run(Deno.execPath(), ["run", "-A", "--no-check", CLI, ...args]);
}

function snapshot(stage: FormatStage, verb: string, ...args: string[]): Promise<string> {
  return xenblk(stage, "snapshot", verb, `${GUEST}`, "xvda", ...args);
}

/** The names of the snapshots, the newest first; `!` is beside those that were merged in part. */
async function names(stage: FormatStage): Promise<string> {
  const { snapshots } = JSON.parse(await snapshot(stage, "list", "--json"));
  return snapshots.map((each: Record<string, string>) => `${each["snapshot"]}${each["merging"] ? "!" : ""}`).join(" ");
}

async function untilNames(stage: FormatStage, wanted: string): Promise<void> {
  for (const end = performance.now() + WAIT_MS;;) {
    const found = await names(stage);
    if (found === wanted) return;
    if (performance.now() > end) throw new Error(`the snapshots are ${found}, not ${wanted}`);
  }
}

nativeTest(
  "a chain is kept short under load, also by the next serve, and its guest leaves a shared image",
  async () => {
    let golden = new Uint8Array();
    await using stage = await FormatStage.open("qcow2", [], {}, async (image) => {
      golden = await Deno.readFile(image);
      await qemuImg("create", "-q", "-f", "qcow2", "-b", image, "-F", "qcow2", `${image}.web`);
      return `qcow2:${image}.web`;
    });
    const { disk, folder, xen } = stage;
    const first = stage.serve();
    await disk.connect();
    await disk.startLoad(UNTIL_STOPPED);
    for (const name of ["one", "two", "three", "four"]) {
      await assertProgress(disk, 200);
      await snapshot(stage, "create", "--name", name);
    }
    assertEquals(JSON.parse(await snapshot(stage, "delete", "two", "--json")).state, "completed", first.messages);
    assertEquals(await names(stage), "four three one");
    await assertProgress(disk, 200);

    const kept = JSON.parse(
      await snapshot(stage, "create", "--name", "five", "--keep", "2", "--rate", "64K", "--json"),
    );
    assertEquals([kept.jobs.length, kept.warnings], [1, []], "the oldest, then the next");
    await assertRejects(() => snapshot(stage, "create", "--name", "six"), Error, "its snapshots are being merged");
    await first.stop("SIGKILL");
    const second = stage.serve();
    await second.says(/connected:/);
    await assertRejects(() => xenblk(stage, "job", "wait", `vbd3-${GUEST}-51712-commit`), Error, "job");
    assertEquals(await names(stage), "five four three one!");
    await snapshot(stage, "create", "--name", "six", "--keep", "2");
    await untilNames(stage, "six five");
    await assertProgress(disk, 200);

    await qemuImg("create", "-q", "-f", "qcow2", `${folder}/own.qcow2`, "64M");
    await xenblk(stage, "mirror", `${GUEST}`, "xvda", `qcow2:${folder}/own.qcow2`);
    await assertProgress(disk, 200);
    assertClean(received(await disk.stopLoad()), second.messages);
    await detach(xen, stage.device);
    const info = JSON.parse(await qemuImg("info", "--output=json", `${folder}/own.qcow2`));
    assertEquals(info["backing-filename"], undefined);
    await qemuImg("convert", "-f", "qcow2", "-O", "raw", `${folder}/own.qcow2`, `${folder}/copy.raw`);
    assertEquals((await disk.verify(`${folder}/copy.raw`)).miscompares, 0);
    assertEquals(await Deno.readFile(stage.image), golden, "nobody has written to the shared image");
    assertEquals(await second.stop(), 0, second.messages);
    const left = [...Deno.readDirSync(folder)].map(({ name }) => name).filter((name) => name.endsWith(".qcow2"));
    assertEquals(left.sort(), ["disk.qcow2", "disk.qcow2.five.qcow2", "disk.qcow2.six.qcow2", "own.qcow2"]);
  },
);
