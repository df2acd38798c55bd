/**
 * A guest with one disk that it writes to, a `serve` that can be killed with its storage daemon, and verbs: the ground of
 * all kinds of work on a living disk.
 */

import { assert, assertEquals } from "@std/assert";
import type { LoadSpec } from "../../../../lib/guest/load_types.ts";
import { deviceLabel } from "../../../../lib/backend/journals.ts";
import { controlDirectory } from "../../../../lib/control/directory.ts";
import { isActive, type JobReport } from "../../../../lib/jobs/job.ts";
import type { ControlClient } from "../../../../lib/control/client.ts";
import { backendPath, type DeviceAddress } from "../../../../lib/xenbus/paths.ts";
import type { NativeXen } from "../../harness.ts";
import { qemuImg } from "../../qemu_img.ts";
import { until } from "../../qemu/rig.ts";
import { type BackendProcess, detach, nodeValue } from "../backend.ts";
import { assertSound, daemonsOf, untilNothingIsLeft } from "../format_stage.ts";
import type { GuestDisk } from "../guest.ts";
import { assertClean, assertProgress, received, UNTIL_STOPPED } from "../scenes.ts";
import { clientOf } from "../swap_stage.ts";
import { VerbProcess } from "./verb_process.ts";

/** Who is killed. */
export type Ending = "daemon" | "serve" | "both";

/** What the stages of other tests have, too. */
export interface Stage extends AsyncDisposable {
  readonly xen: NativeXen;
  readonly folder: string;
  readonly device: DeviceAddress;
  readonly disk: GuestDisk;
}

const CALL = { timeoutMs: 60_000 };
const PATIENCE_MS = 60_000;
const SWEEP_BYTES = 32_768;
const NEW_NOTE = ".xenblk-snapshot.new";
/** What no work may leave in the folder of the images. */
const SCRATCH = /\.partial|scratch|xenblk-export|\.tmp|\.making|\.new/;

/** See above. */
export class Scene implements AsyncDisposable {
  readonly #serve: () => BackendProcess;
  #backend: BackendProcess;
  #next: VerbProcess;
  #verbs: VerbProcess[] = [];
  #sectors = 0;

  private constructor(readonly stage: Stage, serve: () => BackendProcess) {
    this.#serve = serve;
    this.#backend = serve();
    this.#next = new VerbProcess(stage.xen);
  }

  /** `serve` starts one, which the stage disposes of. */
  static async open(stage: Stage, serve: () => BackendProcess): Promise<Scene> {
    const scene = new Scene(stage, serve);
    scene.#sectors = (await stage.disk.connect()).sectors;
    return scene;
  }

  get folder(): string {
    return this.stage.folder;
  }

  get label(): string {
    return deviceLabel(this.stage.device);
  }

  get sectors(): number {
    return this.#sectors;
  }

  /** What `serve` has said since its start. */
  get messages(): string {
    return this.#backend.messages;
  }

  /** A verb that begins at once. */
  async verb(args: readonly string[]): Promise<VerbProcess> {
    const verb = this.#next;
    this.#verbs.push(verb);
    this.#next = new VerbProcess(this.stage.xen);
    await verb.run(args);
    return verb;
  }

  /** The value of the node `params`. */
  params(): Promise<string> {
    return this.node("params");
  }

  node(name: string): Promise<string> {
    return nodeValue(this.stage.xen, `${backendPath(this.stage.device)}/${name}`);
  }

  /** Asks `serve`, once it answers. */
  async ask<T>(question: (client: ControlClient) => Promise<T>): Promise<T> {
    using client = await until("serve answers", () => clientOf(this.stage.xen, this.#backend).catch(() => undefined));
    return await question(client);
  }

  /** The job of that kind which has begun since, once it is over. Undefined: none has begun. */
  async jobSince(kind: string, sinceMs: number): Promise<JobReport | undefined> {
    for (const end = performance.now() + PATIENCE_MS;;) {
      const { jobs } = await this.ask((client) => client.call("jobs", { device: this.label }, CALL));
      const job = jobs.find((report) => report.kind === kind && Date.parse(report.started) >= sinceMs);
      if (job === undefined || !isActive(job)) return job;
      assert(performance.now() < end, `the job does not end: ${JSON.stringify(job)}; ${this.messages}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  /** Starts what the guest does all the time: it writes to one half of the disk, or reads. */
  async startLoad(spec: Partial<LoadSpec>): Promise<void> {
    await this.stage.disk.startLoad({ ...UNTIL_STOPPED, ...spec });
    await assertProgress(this.stage.disk, 50);
  }

  /** Kills, and has the next `serve` go on. Resolves once the guest's requests are answered. */
  async kill(ending: Ending): Promise<void> {
    if (ending !== "serve") await this.killDaemons();
    if (ending !== "daemon") {
      await this.#backend.stop("SIGKILL");
      this.#backend = this.#serve();
      await this.#backend.says(/connected:/);
    }
    await this.goesOn();
  }

  async killDaemons(): Promise<void> {
    for (const pid of await daemonsOf(this.stage.xen)) {
      try {
        Deno.kill(pid, "SIGKILL");
      } catch { /* it has ended meanwhile */ }
    }
  }

  async goesOn(): Promise<void> {
    await assertProgress(this.stage.disk, 50);
  }

  /** The guest stops; all that it was answered is there, by its own reads of the whole disk. */
  async rest(): Promise<void> {
    assertClean(received(await this.stage.disk.stopLoad()), this.messages);
    const sweep: LoadSpec = {
      ...UNTIL_STOPPED,
      pattern: "sequential",
      readShare: 1,
      blockBytes: [SWEEP_BYTES],
      requests: this.sectors * 512 / SWEEP_BYTES,
      barrierEvery: 0,
    };
    assertClean(received(await this.stage.disk.load(sweep)), this.messages);
  }

  /** The content of a file or URI, which may be in use: the guest has flushed, and rests. */
  async content(format: string, image: string): Promise<Uint8Array> {
    const raw = `${this.folder}/content.raw`;
    await qemuImg("convert", "-U", "-f", format, "-O", "raw", image, raw);
    const bytes = await Deno.readFile(raw);
    await Deno.remove(raw);
    return bytes;
  }

  /** Nothing is left of the work: no scratch file, socket, verb or second daemon. */
  async assertTidy(): Promise<void> {
    const names = [...Deno.readDirSync(this.folder)].map(({ name }) => name);
    const own = (name: string): boolean => name.startsWith(`xenblk-export-${this.#backend.pid}-`);
    // A deletion that was killed at its last step leaves the note that was to lead on from the file that it removed.
    const isGone = (name: string): boolean => /\.new$/.test(name) && !names.includes(name.replace(NEW_NOTE, ""));
    const left = names.filter((name) => SCRATCH.test(name) && !isGone(name))
      .filter((name) => own(name) || !/^xenblk-export-/.test(name));
    assertEquals(left, []);
    // One that a killed process was making is removed with the next one.
    assert(names.filter((name) => name.startsWith("xenblk-export-")).length <= 1, names.join());
    const directory = controlDirectory(`${this.stage.xen.directory}/journals`);
    const sockets = (): string[] => [...Deno.readDirSync(directory)].map(({ name }) => name);
    await until("no socket of the dead is left", () => sockets().join() === `${this.#backend.pid}.sock`)
      .catch((error) => {
        throw new Error(`${error.message}: ${sockets().join()}, and serve is process ${this.#backend.pid}`);
      });
    await until("one daemon serves the disk", async () => (await daemonsOf(this.stage.xen)).length <= 1);
    for (const verb of this.#verbs.splice(0)) await verb.ended();
  }

  /** Detaches the disk; then its image is right, and nothing is left. */
  async finish(format: string, image: string, isWritten = true): Promise<void> {
    const { stage } = this;
    await detach(stage.xen, stage.device);
    if (format !== "raw") await assertSound(format, image);
    const raw = `${stage.folder}/verified.raw`;
    if (isWritten) {
      await qemuImg("convert", "-f", format, "-O", "raw", image, raw);
      assertEquals((await stage.disk.verify(raw)).miscompares, 0);
    }
    assertEquals(await this.#backend.stop(), 0, this.messages);
    await Deno.remove(`${stage.xen.directory}/journals/jobs`, { recursive: true }).catch(() => {}); // no job was begun
    await untilNothingIsLeft(stage.xen);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const verb of [...this.#verbs, this.#next]) await verb[Symbol.asyncDispose]();
    await this.#backend[Symbol.asyncDispose]();
    await this.killDaemons();
    await this.stage[Symbol.asyncDispose]();
  }
}
