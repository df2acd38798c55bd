/**
 * A guest with a raw disk of two rings, which a serving process has by io_uring, and what is asked of that process: for the
 * tests of disks that visit a storage daemon.
 */

import { assertEquals } from "@std/assert";
import { deviceLabel } from "../../../lib/backend/journals.ts";
import type { Method, Methods } from "../../../lib/control/protocol.ts";
import { isActive, type JobReport } from "../../../lib/jobs/job.ts";
import type { VisitState } from "../../../lib/jobs/visits.ts";
import { backendPath } from "../../../lib/xenbus/paths.ts";
import { BackendProcess, detach } from "./backend.ts";
import { FormatStage, untilNothingIsLeft } from "./format_stage.ts";
import type { GuestDisk } from "./guest.ts";
import { clientOf, SWAPPING_SERVE } from "./swap_stage.ts";

/** Bytes in a second of a job that does not end by itself. */
export const SLOW = 2 ** 20;

const PATIENT = { timeoutMs: 100_000 };
const WAIT_MS = 60_000;

/** The guest, its disk, and the file. */
export class EnterStage implements AsyncDisposable {
  readonly #owned = new AsyncDisposableStack();

  private constructor(readonly stage: FormatStage) {}

  static async open(params?: (image: string) => string): Promise<EnterStage> {
    return new EnterStage(await FormatStage.open("raw", [], { queues: 2 }, params));
  }

  get disk(): GuestDisk {
    return this.stage.disk;
  }

  get folder(): string {
    return this.stage.folder;
  }

  get image(): string {
    return this.stage.image;
  }

  get device(): string {
    return deviceLabel(this.stage.device);
  }

  serve(...args: string[]): BackendProcess {
    return this.stage.serve("--queues", "2", "--workers", "2", ...args);
  }

  /** `confinement` is a program with arguments that executes `serve` at its end. */
  serveIn(confinement: readonly string[]): BackendProcess {
    return this.stage.serveIn(confinement, "--queues", "2", "--workers", "2");
  }

  async killDaemon(): Promise<void> {
    await this.stage.killDaemon();
  }

  /** See swapping_serve.ts. */
  dyingServe(step: string, turn: number, killed: "serve" | "daemon"): BackendProcess {
    const environment = ["env", `DIE_AT=${step}`, `DIE_TURN=${turn}`, `DIE_WITH=${killed}`];
    const all = ["serve", "--queues", "2", "--workers", "2"];
    return this.#owned.use(new BackendProcess(this.stage.xen, all, environment, 0, SWAPPING_SERVE));
  }

  /** Calls a method about the disk. */
  async call<M extends Method>(
    backend: BackendProcess,
    method: M,
    params: Omit<Methods[M]["params"], "device">,
  ): Promise<Methods[M]["result"]> {
    using client = await clientOf(this.stage.xen, backend);
    return await client.call(method, { ...params, device: this.device }, PATIENT);
  }

  /** The disk's job of that kind once it is over. */
  async jobOver(backend: BackendProcess, kind = "backup"): Promise<JobReport> {
    for (const end = performance.now() + WAIT_MS;;) {
      const job = (await this.call(backend, "jobs", {})).jobs.find((each) => each.kind === kind);
      if (job !== undefined && !isActive(job)) return job;
      if (performance.now() > end) throw new Error(`the job does not end: ${JSON.stringify(job)}; ${backend.messages}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  async cancel(backend: BackendProcess, id: string): Promise<void> {
    using client = await clientOf(this.stage.xen, backend);
    await client.call("jobCancel", { id }, PATIENT);
  }

  async snapshot(backend: BackendProcess, name: string): Promise<Methods["snapshotCreate"]["result"]> {
    using client = await clientOf(this.stage.xen, backend);
    return await client.call("snapshotCreate", { devices: [this.device], snapshot: name }, PATIENT);
  }

  async visit(backend: BackendProcess): Promise<VisitState> {
    return await this.call(backend, "daemonVisit", {});
  }

  /** What the process says of the image: `raw:/path (64.0 MiB, engine uring, ...)`. */
  async served(backend: BackendProcess): Promise<string> {
    const { devices } = await this.call(backend, "status", {});
    return devices[0]?.image ?? "none";
  }

  /** The disk is by io_uring, and nothing says otherwise. */
  async outside(backend: BackendProcess): Promise<void> {
    for (const end = performance.now() + WAIT_MS; !/engine uring/.test(await this.served(backend));) {
      if (performance.now() > end) throw new Error(`the disk has not left: ${backend.messages}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await this.visit(backend);
    assertEquals([await this.node("in-daemon"), await this.stage.daemons()], ["", []], backend.messages);
  }

  /** Empty if there is none. */
  async node(name: string): Promise<string> {
    const { xen, device } = this.stage;
    return (await xen.run("xenstore-read", [`${backendPath(device)}/${name}`]).catch(() => "")).trim();
  }

  /** Detaches the disk; then the image is right, and nothing is left but the records of jobs. */
  async finish(backend: BackendProcess, image = this.image): Promise<void> {
    const { stage } = this;
    await detach(stage.xen, stage.device);
    assertEquals((await stage.disk.verify(image)).miscompares, 0);
    assertEquals(await backend.stop(), 0, backend.messages);
    await untilNothingIsLeft(stage.xen);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#owned.disposeAsync();
    await this.stage[Symbol.asyncDispose]();
  }
}
