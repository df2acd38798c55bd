/**
 * Work that copies a living disk as it is at one instant: a backup, an export.
 */

import { assertEquals, assertMatch } from "@std/assert";
import { assertSound } from "../format_stage.ts";
import { GUEST } from "../scenes.ts";
import { type Outcome, type Point, Work } from "./work.ts";
import type { VerbEnd } from "./verb_process.ts";

/** A backup that copies all takes some seconds. */
const SPEED = "24M";
/** Backups on one another before a full one. */
const LONGEST_CHAIN = 5;

/** `xenblk backup`, of what has changed where that is possible. */
export class BackupWork extends Work {
  override readonly kind = "backup";
  /** The complete ones, the last full one first. */
  #chain: string[] = [];

  protected override order({ number }: Point): Promise<readonly string[]> {
    const options = this.#chain.length < LONGEST_CHAIN ? ["--incremental"] : [];
    return Promise.resolve(["backup", `${GUEST}`, "xvda", this.#target(number), "--rate", SPEED, ...options]);
  }

  #target(number: number): string {
    return `${this.scene.folder}/backup-${number}.qcow2`;
  }

  override async check(outcome: Outcome): Promise<string> {
    const { point, job } = outcome;
    const target = this.#target(point.number);
    const isThere = await Deno.lstat(target).then(() => true, () => false);
    const told = this.assertTold(outcome, isThere);
    const disk = await this.content();
    if (!isThere) return told;
    const isFull = job?.note?.startsWith("based on") !== true;
    if (isFull) await Promise.all(this.#chain.splice(0).map((path) => Deno.remove(path)));
    this.#chain.push(target);
    await assertSound("qcow2", target);
    this.assertStillHalf(point, disk, await this.scene.content("qcow2", target));
    const verify = await (await this.scene.verb(["backup", "verify", target])).ended();
    assertEquals(verify.status, 0, verify.stderr);
    return isFull ? `${told}, full` : `${told}, incremental`;
  }
}

/** `xenblk export`, and a reader of all of it. */
export class ExportWork extends Work {
  /** What the reader has got, if it says that this is all. */
  #copy: Uint8Array | undefined;

  protected override order(): Promise<readonly string[]> {
    return Promise.resolve(["export", `${GUEST}`, "xvda", "--scratch-dir", this.scene.folder]);
  }

  override async begin(): Promise<{ readonly ended: Promise<VerbEnd> }> {
    this.#copy = undefined;
    const verb = await this.scene.verb(await this.order());
    const ended = verb.ended();
    const read = async (): Promise<VerbEnd> => {
      const uri = await verb.line(/^nbd\S+$/m);
      if (uri !== undefined) this.#copy = await this.scene.content("raw", uri).catch(() => undefined);
      // A reader that fails is the first to see what the verb tells of then.
      if (this.#copy !== undefined) verb.kill("SIGINT");
      return await ended;
    };
    return { ended: read() };
  }

  override async check(outcome: Outcome): Promise<string> {
    const { point, status, stderr } = outcome;
    const disk = await this.content();
    const copy = this.#copy;
    if (copy !== undefined) this.assertStillHalf(point, disk, copy);
    if (status !== 0) assertMatch(stderr, /Cannot/);
    // A reader may be done before the death, which the verb then tells of.
    const told = this.assertTold(outcome, status === 0 && copy !== undefined);
    return copy === undefined ? told : `${told}, read`;
  }
}
