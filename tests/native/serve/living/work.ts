/**
 * One kind of work on a living disk: how it is begun, what its verb may say about its end, and what must then be true.
 */

import { assert, assertEquals } from "@std/assert";
import type { LoadSpec } from "../../../../lib/guest/load_types.ts";
import type { JobReport } from "../../../../lib/jobs/job.ts";
import { assertSound } from "../format_stage.ts";
import type { Ending, Scene } from "./scene.ts";
import type { VerbEnd } from "./verb_process.ts";

/** Requests in flight: the processors have other work, too. */
const DEPTH = 8;

/** A moment at which somebody is killed. */
export interface Point {
  readonly number: number;
  /** Undefined: nobody is. */
  readonly ending: Ending | undefined;
  /** When, in parts of the time that the work takes. */
  readonly share: number;
  /** The half of the disk that the guest writes to meanwhile. */
  readonly half: 0 | 1;
}

/** What has become of the work of a point. */
export interface Outcome extends VerbEnd {
  readonly point: Point;
  /** What `serve` tells of it, if it is a job that has begun. */
  readonly job: JobReport | undefined;
}

/** The verb has lost the process that it had asked, or there was none: it claims nothing about the work. */
const CLAIMS_NOTHING =
  /the process that watches it has ended|Cannot complete .* on .*: the (process|connection)|the process that serves the disk is gone|no process of xenblk serves it|no answer for/;

/** See above. */
export abstract class Work {
  constructor(readonly scene: Scene) {}

  /** The kind of its jobs; undefined: it is none. */
  readonly kind: string | undefined = undefined;

  /** The guest's load at a point. */
  load({ half }: Point): Partial<LoadSpec> {
    const sectors = this.scene.sectors / 2;
    return { depth: DEPTH, area: { firstSector: half * sectors, sectors } };
  }

  /** Begins the work, which has ended when the result's promise resolves. */
  async begin(point: Point): Promise<{ readonly ended: Promise<VerbEnd> }> {
    const verb = await this.scene.verb(await this.order(point));
    return { ended: verb.ended() };
  }

  /** The guest comes to rest; every byte that it has been told is written is there. */
  async rest(): Promise<void> {
    await this.scene.rest();
  }

  /** The verb of a point. Whatever it needs is made first. */
  protected abstract order(point: Point): Promise<readonly string[]>;

  /** Checks what is left of the work while the guest rests. Resolves with its end in words. */
  abstract check(outcome: Outcome): Promise<string>;

  /** Detaches the disk; then all is right, and nothing is left. */
  async finish(): Promise<void> {
    const [format, path] = await this.image();
    await this.scene.finish(format, path);
  }

  /** Format and path of the image that the disk has. */
  async image(): Promise<readonly [format: string, path: string]> {
    const params = await this.scene.params();
    const at = params.indexOf(":");
    return [params.slice(0, at), params.slice(at + 1)];
  }

  /** The content of the disk. Its image is sound. */
  protected async content(): Promise<Uint8Array> {
    const [format, path] = await this.image();
    if (format === "qcow2") await assertSound(format, path, "-U");
    return await this.scene.content(format, path);
  }

  /** Whether the half that the guest has left alone is the same in a copy. */
  protected assertStillHalf({ half }: Point, disk: Uint8Array, copy: Uint8Array): void {
    assert(copy.length >= disk.length, `the copy has ${copy.length} bytes, the disk ${disk.length}`);
    const size = disk.length / 2;
    const part = (bytes: Uint8Array): BigUint64Array =>
      new BigUint64Array(bytes.buffer, bytes.byteOffset + (1 - half) * size, size / 8);
    const [mine, other] = [part(disk), part(copy)];
    const at = mine.findIndex((word, index) => word !== other[index]);
    assertEquals(at, -1, `the copy differs from the disk at byte ${(1 - half) * size + 8 * at}`);
  }

  /** The verb, and the record of the job, say what is true. */
  protected assertTold({ status, stdout, stderr, point: { ending }, job }: Outcome, isDone: boolean): string {
    const said = `status ${status}, ${stdout}${stderr}, job ${job?.state} ${job?.error ?? ""}`;
    if (this.kind !== undefined) assertEquals(job?.state === "completed", isDone, `the record says otherwise: ${said}`);
    if (status === 0) assert(isDone, `the verb says that it is done, and it is not: ${said}`);
    else if (!CLAIMS_NOTHING.test(stderr)) assert(!isDone, `the verb says that it has failed, and it is done: ${said}`);
    else assert(ending !== "daemon" && ending !== undefined, `nobody has killed serve: ${said}`);
    if (ending === undefined) assertEquals([status, isDone], [0, true], said);
    const error = job?.error ?? stderr.trim().split("\n")[0]!.replace(/^xenblk: /, "");
    return isDone ? "done" : `${job?.state ?? "not done"}: ${error.replace(/\d+/g, "N").replace(/\/\S*\//g, "")}`;
  }
}
