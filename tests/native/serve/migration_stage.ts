/**
 * Two hosts for a guest that moves without shared storage: two machines with a xenstored, a run directory and a guest's
 * process each, and the NBD server of host B as docs/migration.md starts it.
 */

import { assert } from "@std/assert";
import type { DomId } from "../../../lib/hypervisor.ts";
import { backendPath, type DeviceAddress, frontendPath } from "../../../lib/xenbus/paths.ts";
import { NativeXen } from "../harness.ts";
import { qemuImg } from "../qemu_img.ts";
import { attach, BackendProcess, nodeValue } from "./backend.ts";
import { daemonsOf } from "./format_stage.ts";
import { type GuestDisk, GuestProcess } from "./guest.ts";
import { DiskFolder, GUEST } from "./scenes.ts";
import { SWAPPING_SERVE } from "./swap_stage.ts";

const ALLOW = ["--allow-image", "nbd+unix:**"];

/** A host, on which the guest's domain exists. */
export class Host implements AsyncDisposable {
  readonly #owned: AsyncDisposableStack;
  #device: DeviceAddress | undefined;
  #disk: GuestDisk | undefined;

  private constructor(readonly xen: NativeXen, readonly guest: GuestProcess, owned: AsyncDisposableStack) {
    this.#owned = owned;
  }

  static async start(): Promise<Host> {
    await using undo = new AsyncDisposableStack();
    const xen = undo.use(await NativeXen.start());
    await xen.createDomain(GUEST);
    const guest = undo.use(new GuestProcess(xen, GUEST));
    return new Host(xen, guest, undo.move());
  }

  get device(): DeviceAddress {
    return this.#device!;
  }

  /** The guest's disk, as its driver has it. */
  get disk(): GuestDisk {
    return this.#disk!;
  }

  serve(): BackendProcess {
    return this.#owned.use(new BackendProcess(this.xen, ["serve", ...ALLOW]));
  }

  /** It kills itself at that step of a swap. */
  serveUntil(step: string): BackendProcess {
    const environment = ["env", `DIE_AT=${step}`];
    return this.#owned.use(new BackendProcess(this.xen, ["serve", ...ALLOW], environment, 0, SWAPPING_SERVE));
  }

  /** Writes the disk's nodes; resolves when the image is open. */
  async attach(params: string): Promise<void> {
    this.#device = await attach(this.xen, { domain: GUEST as DomId, params, readOnly: false });
    this.#disk = await this.guest.disk(frontendPath(this.#device));
  }

  async isOffered(): Promise<void> {
    await nodeValue(this.xen, `${backendPath(this.device)}/hotplug-status`, "connected");
  }

  params(): Promise<string> {
    return nodeValue(this.xen, `${backendPath(this.device)}/params`);
  }

  async killDaemons(): Promise<void> {
    for (const pid of await daemonsOf(this.xen)) Deno.kill(pid, "SIGKILL");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.killDaemons();
    await this.#owned.disposeAsync();
  }
}

/** The loop of docs/migration.md: an NBD server of the image on host B, started again whenever it ends, until told not to. */
export class ImageServer implements AsyncDisposable {
  #loop: Deno.ChildProcess | undefined;

  /** `folder` is host B's; the image in it is named `web` and ends with its format. */
  constructor(readonly folder: string, readonly format: string) {}

  get image(): string {
    return `${this.folder}/web.${this.format}`;
  }

  get name(): string {
    return `nbd+unix:///web?socket=${this.folder}/socket`;
  }

  async start(): Promise<void> {
    await Deno.remove(`${this.folder}/web-moved`).catch(() => {});
    const server = `qemu-nbd --shared=0 --pid-file pid -f ${this.format} -k "$PWD/socket" -x web web.${this.format}`;
    this.#loop = new Deno.Command("sh", {
      args: ["-c", `until [ -e web-moved ]; do ${server} || sleep 0.1; done`],
      cwd: this.folder,
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    await this.listens();
  }

  /** A connection that is closed would end the server, so nobody connects to see. */
  async listens(): Promise<void> {
    for (const end = performance.now() + 20_000;;) {
      // Linux: net/unix/af_unix.c, the flag __SO_ACCEPTCON.
      const table = await Deno.readTextFile("/proc/net/unix");
      if (table.split("\n").some((line) => line.endsWith(` ${this.folder}/socket`) && / 00010000 /.test(line))) return;
      assert(performance.now() < end, "the server does not listen");
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  /** Once it ends, it does not start again. */
  async isLast(): Promise<void> {
    await Deno.writeTextFile(`${this.folder}/web-moved`, "");
  }

  async kill(signal: Deno.Signal): Promise<void> {
    Deno.kill(Number(await Deno.readTextFile(`${this.folder}/pid`)), signal);
  }

  /** Waits until the server and its loop have ended. */
  async ended(): Promise<void> {
    await this.#loop?.status;
    this.#loop = undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#loop === undefined) return;
    await this.isLast();
    await this.kill("SIGKILL").catch(() => {});
    await this.ended();
  }
}

/** Host B, the image there with its server, and a folder for all. */
export class ArrivalStage implements AsyncDisposable {
  private constructor(
    readonly to: Host,
    readonly server: ImageServer,
    readonly folder: string,
    readonly owned: AsyncDisposableStack,
  ) {}

  static async open(format: string): Promise<ArrivalStage> {
    await using undo = new AsyncDisposableStack();
    const { path } = undo.use(new DiskFolder());
    Deno.mkdirSync(`${path}/b`);
    const server = undo.use(new ImageServer(`${path}/b`, format));
    await qemuImg("create", "-q", "-f", format, server.image, "64M");
    return new ArrivalStage(undo.use(await Host.start()), server, path, undo.move());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.owned.disposeAsync();
  }
}

/** Host A with the guest and its qcow2, and host B with an image that is to take it. */
export class MigrationStage implements AsyncDisposable {
  private constructor(
    readonly from: Host,
    /** On host A. */
    readonly image: string,
    readonly arrival: ArrivalStage,
    readonly owned: AsyncDisposableStack,
  ) {}

  static async open(format: string): Promise<MigrationStage> {
    await using undo = new AsyncDisposableStack();
    const arrival = undo.use(await ArrivalStage.open(format));
    const image = `${arrival.folder}/web.qcow2`;
    await qemuImg("create", "-q", "-f", "qcow2", image, "64M");
    const from = undo.use(await Host.start());
    await from.attach(`qcow2:${image}`);
    return new MigrationStage(from, `qcow2:${image}`, arrival, undo.move());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.owned.disposeAsync();
  }
}
