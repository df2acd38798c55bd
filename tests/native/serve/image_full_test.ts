/**
 * A qcow2 on a file system without room: the guest's writes that need room fail, and nothing else; the disk goes on, also
 * in another daemon, and grows and is written to once there is room.
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import type { LoadOutcome, LoadSpec } from "../../../lib/guest/load_types.ts";
import { missingFuse } from "../hanging_fs.ts";
import { nativeTest } from "../harness.ts";
import type { BackendProcess } from "./backend.ts";
import { FormatStage } from "./format_stage.ts";
import { assertClean, GUEST, LOAD, received } from "./scenes.ts";
import { SmallFileSystem } from "./small_fs.ts";

const CLI = new URL("../../../cli.ts", import.meta.url).pathname;
const MIB = 2048;
const OLD = { firstSector: 0, sectors: 8 * MIB };
const NEW = { firstSector: 32 * MIB, sectors: 32 * MIB };
const WRITES: LoadSpec = { ...LOAD, requests: 400, readShare: 0, flushEvery: 0, barrierEvery: 0 };
/** Writes all of {@linkcode OLD}, and some of it twice: after that nothing there needs room. */
const FILL_OLD: LoadSpec = {
  ...WRITES,
  area: OLD,
  pattern: "sequential",
  blockBytes: { min: 32768, max: 32768 },
};

/** A stage with its image on a file system with room for a part of it. */
class SmallStage implements AsyncDisposable {
  private constructor(readonly stage: FormatStage, readonly small: SmallFileSystem, readonly backend: BackendProcess) {}

  static async open(size: string): Promise<SmallStage> {
    const small = Promise.withResolvers<SmallFileSystem>();
    const stage = await FormatStage.open("qcow2", [], {}, async (image) => {
      const folder = `${image}.small`;
      small.resolve(await SmallFileSystem.mount(folder, size));
      Deno.copyFileSync(image, `${folder}/disk.qcow2`);
      Deno.removeSync(image);
      Deno.symlinkSync(`${folder}/disk.qcow2`, image);
      return `qcow2:${folder}/disk.qcow2`;
    });
    const backend = stage.serve();
    await stage.disk.connect();
    return new SmallStage(stage, await small.promise, backend);
  }

  async load(spec: LoadSpec): Promise<LoadOutcome> {
    return received(await this.stage.disk.load(spec));
  }

  resize(size: string): Promise<string> {
    const args = ["run", "-A", "--no-check", CLI, "resize", String(GUEST), "xvda", size];
    return this.stage.xen.run(Deno.execPath(), args);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.small[Symbol.asyncDispose]();
    await this.stage[Symbol.asyncDispose]();
  }
}

/** Writes failed, and nothing else went wrong. */
function assertNoRoom({ errorsByKind, miscompares, protocolErrors, unanswered, reads, flushes }: LoadOutcome): void {
  const kinds = Object.keys(errorsByKind).filter((kind) => kind !== "barrier -1");
  assertEquals([kinds, miscompares, protocolErrors, unanswered], [["write -1"], 0, 0, 0]);
  assert(reads > 0 && flushes > 0);
}

nativeTest(
  "writes to a qcow2 without room fail, and nothing else; with room the disk grows and is written",
  async () => {
    await using it = await SmallStage.open("48m");
    assertClean(await it.load(FILL_OLD), it.backend.messages);
    it.small.fill();
    const { errors, writes } = await it.load({ ...WRITES, area: NEW });
    assertEquals([errors, writes], [WRITES.requests, 0]);
    assertClean(await it.load({ ...LOAD, area: OLD, requests: 400 }), it.backend.messages);
    assertNoRoom(await it.load({ ...LOAD, area: NEW, requests: 400 }));
    assertMatch(it.backend.messages, /WRITE at sector \d+: I\/O failed: EIO, the medium failed or is full/);
    const refused = await assertRejects(() => it.resize("1T"), Error);
    assertMatch(refused.message, /Cannot resize image qcow2:.*No space left on device; free space where the image is/);
    assertClean(await it.load({ ...LOAD, area: OLD, requests: 400, seed: 2 }), it.backend.messages);
    it.small.makeRoom();
    await it.resize("96M");
    assertClean(await it.load({ ...WRITES, area: NEW, seed: 3 }), it.backend.messages);
    await it.stage.finish(it.backend);
  },
  missingFuse(),
);

nativeTest(
  "a guest fills its file system, and its daemon dies: the log is written again, and the disk goes on",
  async () => {
    await using it = await SmallStage.open("24m");
    const mixed = { ...LOAD, requests: 1000, readShare: 0.2, flushEvery: 10, barrierEvery: 15 };
    assertNoRoom(await it.load(mixed));
    assertNoRoom(await it.load({ ...mixed, flushEvery: 999, barrierEvery: 0, seed: 2 }));
    await it.stage.killDaemon();
    assertNoRoom(await it.load({ ...mixed, seed: 3 }));
    assertMatch(it.backend.messages, /operations .* of its log again[^]*served again after/);
    await it.stage.finish(it.backend);
  },
  missingFuse(),
);
