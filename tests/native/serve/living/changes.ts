/**
 * Work that gives a living disk another image: a mirror, a swap, a snapshot and its merge.
 */

import { assert, assertEquals } from "@std/assert";
import type { LoadSpec } from "../../../../lib/guest/load_types.ts";
import type { SnapshotChain } from "../../../../lib/storage/qemu/overlay_chain.ts";
import { qemuImg } from "../../qemu_img.ts";
import { assertSound } from "../format_stage.ts";
import { GUEST } from "../scenes.ts";
import type { Scene } from "./scene.ts";
import { type Outcome, type Point, Work } from "./work.ts";

/** Work of a job takes some seconds. */
const SPEED = "24M";
const CALL = { timeoutMs: 60_000 };
/** Snapshots on one another before they are merged. */
const LONGEST_CHAIN = 4;
/** Before one of them is deleted. */
const SNAPSHOTS = 3;

/** `xenblk mirror` to a new qcow2 image. */
export class MirrorWork extends Work {
  override readonly kind = "mirror";
  #before = "";

  protected override async order({ number }: Point): Promise<readonly string[]> {
    this.#before = await this.scene.params();
    const target = this.#target(number);
    await qemuImg("create", "-q", "-f", "qcow2", target.slice("qcow2:".length), `${this.scene.sectors * 512}`);
    return ["mirror", `${GUEST}`, "xvda", target, "--rate", SPEED];
  }

  #target(number: number): string {
    return `qcow2:${this.scene.folder}/mirror-${number}.qcow2`;
  }

  override async check(outcome: Outcome): Promise<string> {
    const target = this.#target(outcome.point.number);
    const params = await this.scene.params();
    assert(params === target || params === this.#before, params);
    const isDone = params === target;
    const told = this.assertTold(outcome, isDone);
    await this.content();
    const other = (isDone ? this.#before : target).slice("qcow2:".length);
    await assertSound("qcow2", other); // which also shows that nobody has it
    await Deno.remove(other);
    return told;
  }
}

/** `xenblk swap` among images that have the same data at any time. */
export class SwapWork extends Work {
  readonly #images: readonly string[];
  #before = "";
  #after = "";

  constructor(scene: Scene, images: readonly string[]) {
    super(scene);
    this.#images = images;
  }

  protected override async order(): Promise<readonly string[]> {
    this.#before = await this.scene.params();
    this.#after = this.#images[(this.#images.indexOf(this.#before) + 1) % this.#images.length]!;
    return ["swap", `${GUEST}`, "xvda", this.#after];
  }

  override async check(outcome: Outcome): Promise<string> {
    const params = await this.scene.params();
    assert(params === this.#after || params === this.#before, params);
    await this.content();
    return this.assertTold(outcome, params === this.#after);
  }
}

/** What the kinds of work on snapshots share. */
abstract class ChainWork extends Work {
  /** Few writes: QEMU copies 64 KiB for each while it merges, and has to get ahead of them. */
  override load(point: Point): Partial<LoadSpec> {
    return { ...super.load(point), depth: 1, readShare: 0.95 };
  }

  protected snapshots(): Promise<SnapshotChain> {
    return this.scene.ask((client) => client.call("snapshots", { device: this.scene.label }, CALL));
  }

  /** The newest first. */
  protected async names(): Promise<string[]> {
    return (await this.snapshots()).snapshots.map(({ snapshot }) => snapshot);
  }

  /** Those that are there are files of the folder, and no other is an overlay. */
  protected async assertFiles({ image, snapshots }: SnapshotChain): Promise<void> {
    assertEquals(await this.scene.params(), image);
    const names = [...Deno.readDirSync(this.scene.folder)].map(({ name }) => name);
    const overlays = snapshots.map(({ overlay }) => overlay.slice(this.scene.folder.length + 1));
    const found = names.filter((name) => /\.p\d+\.qcow2$/.test(name)).toSorted();
    assertEquals(found, overlays.toSorted(), "overlays");
    for (const { base } of snapshots) await assertSound("qcow2", base, "-U");
  }

  protected async merge(): Promise<void> {
    const oldest = (await this.snapshots()).snapshots.at(-1)!.snapshot;
    const sinceMs = Date.now();
    await this.scene.ask((client) => {
      return client.call("snapshotCommit", { device: this.scene.label, snapshot: oldest }, CALL);
    });
    const job = await this.scene.jobSince("commit", sinceMs);
    assertEquals(job?.state, "completed", job?.error);
  }
}

/** `xenblk snapshot create`. */
export class SnapshotWork extends ChainWork {
  #before: readonly string[] = [];

  protected override async order({ number }: Point): Promise<readonly string[]> {
    if ((await this.snapshots()).snapshots.length >= LONGEST_CHAIN) await this.merge();
    this.#before = await this.names();
    return ["snapshot", "create", `${GUEST}`, "xvda", "--name", `p${number}`];
  }

  override async check(outcome: Outcome): Promise<string> {
    const now = await this.names();
    const name = `p${outcome.point.number}`;
    const isDone = now[0] === name;
    assertEquals(now, isDone ? [name, ...this.#before] : this.#before);
    await this.content();
    await this.assertFiles(await this.snapshots());
    // See docs/snapshots.md: the daemon died, the disk goes on with its overlay, and the error says that.
    const isOpen = outcome.status !== 0 && isDone && /goes on with/.test(outcome.stderr);
    return isOpen ? "died, with its overlay" : this.assertTold(outcome, isDone);
  }

  override async finish(): Promise<void> {
    if ((await this.names()).length > 0) await this.merge();
    await super.finish();
  }
}

/** `xenblk snapshot commit` of a snapshot that is taken before. */
export class CommitWork extends ChainWork {
  override readonly kind = "commit";
  #before: SnapshotChain | undefined;

  protected override async order({ number }: Point): Promise<readonly string[]> {
    if ((await this.snapshots()).snapshots.length === 0) {
      const order = { devices: [this.scene.label], snapshot: `p${number}` };
      await this.scene.ask((client) => client.call("snapshotCreate", order, CALL));
    }
    await this.scene.goesOn();
    this.#before = await this.snapshots();
    return ["snapshot", "commit", `${GUEST}`, "xvda"];
  }

  override async check(outcome: Outcome): Promise<string> {
    const now = await this.snapshots();
    const names = (chain: SnapshotChain): string[] => chain.snapshots.map(({ snapshot }) => snapshot);
    const isDone = names(now).length === 0;
    if (!isDone) assertEquals(names(now), names(this.#before!));
    const told = this.assertTold(outcome, isDone);
    await this.content();
    await this.assertFiles(now);
    return told;
  }
}

/** `xenblk snapshot delete` of one that is not the newest. */
export class DeleteWork extends ChainWork {
  override readonly kind = "commit";
  #before: readonly string[] = [];
  #gone = "";
  /** Snapshots that were taken for this; their names are not used again. */
  #taken = 0;

  protected override async order({ number }: Point): Promise<readonly string[]> {
    for (let count = (await this.names()).length; count < SNAPSHOTS; count++) {
      const order = { devices: [this.scene.label], snapshot: `p${number}${++this.#taken}` };
      await this.scene.ask((client) => client.call("snapshotCreate", order, CALL));
      await this.scene.goesOn();
    }
    this.#before = await this.names();
    this.#gone = this.#before[1 + number % (SNAPSHOTS - 1)]!;
    return ["snapshot", "delete", `${GUEST}`, "xvda", this.#gone, "--rate", SPEED];
  }

  override async check(outcome: Outcome): Promise<string> {
    const now = await this.names();
    const isDone = !now.includes(this.#gone);
    assertEquals(now, this.#before.filter((name) => !isDone || name !== this.#gone));
    const told = this.assertTold(outcome, isDone);
    await this.content();
    return told;
  }

  override async finish(): Promise<void> {
    await this.merge();
    await super.finish();
  }
}
