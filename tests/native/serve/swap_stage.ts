/**
 * A guest whose disk is exchanged among three images that have the same data at any time: a raw file, and two qcow2 images
 * whose data lie in that file (data_file_raw). So a verified load may write at any moment.
 */

import { assert, assertEquals } from "@std/assert";
import type { Exchanged } from "../../../lib/backend/exchange.ts";
import { deviceLabel } from "../../../lib/backend/journals.ts";
import { ControlClient } from "../../../lib/control/client.ts";
import { controlDirectory, socketPath } from "../../../lib/control/directory.ts";
import type { DomId } from "../../../lib/hypervisor.ts";
import { backendPath, type DeviceAddress, frontendPath } from "../../../lib/xenbus/paths.ts";
import { formatVdev } from "../../../lib/xenbus/vdev.ts";
import { NativeXen } from "../harness.ts";
import { qemuImg } from "../qemu_img.ts";
import { attach, BackendProcess, detach, nodeValue } from "./backend.ts";
import { daemonsOf, untilNothingIsLeft } from "./format_stage.ts";
import { type GuestDisk, GuestProcess } from "./guest.ts";
import { DiskFolder, GUEST } from "./scenes.ts";

/** The command, which can be killed at a step of an exchange. */
export const SWAPPING_SERVE = new URL("./swapping_serve.ts", import.meta.url).pathname;

const CLI = new URL("../../../cli.ts", import.meta.url).pathname;

/** The values of `params`. */
export interface SwapImages {
  readonly raw: string;
  readonly one: string;
  readonly two: string;
  /** The raw file, served by the daemon. */
  readonly entered: string;
}

/** A client of a process. */
export async function clientOf(xen: NativeXen, { pid }: BackendProcess): Promise<ControlClient> {
  const client = await ControlClient.connect(socketPath(controlDirectory(`${xen.directory}/journals`), pid));
  assert(client !== undefined, "the process has no socket");
  return client;
}

/** A guest with a disk of two rings, which begins with the raw file. */
export class SwapStage implements AsyncDisposable {
  private constructor(
    readonly xen: NativeXen,
    readonly folder: string,
    readonly images: SwapImages,
    readonly device: DeviceAddress,
    readonly disk: GuestDisk,
    readonly owned: AsyncDisposableStack,
  ) {}

  static async open(): Promise<SwapStage> {
    await using undo = new AsyncDisposableStack();
    const xen = undo.use(await NativeXen.start());
    await xen.createDomain(GUEST);
    const guest = undo.use(new GuestProcess(xen, GUEST));
    const { path } = undo.use(new DiskFolder());
    const shared = `data_file=${path}/disk.raw,data_file_raw=on,preallocation=metadata`;
    for (const name of ["one", "two"]) {
      await qemuImg("create", "-q", "-f", "qcow2", "-o", shared, `${path}/${name}.qcow2`, "64M");
    }
    const [one, two] = [`qcow2:${path}/one.qcow2`, `qcow2:${path}/two.qcow2`];
    const file = { driver: "file", filename: `${path}/disk.raw` };
    const entered = `json:${JSON.stringify({ driver: "raw", file })}`;
    const images = { raw: `raw:${path}/disk.raw`, one, two, entered };
    const device = await attach(xen, { domain: GUEST as DomId, params: images.raw, readOnly: false });
    const disk = await guest.disk(frontendPath(device), undefined, {}, { queues: 2, requests: 32 });
    return new SwapStage(xen, path, images, device, disk, undo.move());
  }

  /** `environment`: of swapping_serve.ts. */
  serve(environment: Readonly<Record<string, string>> = {}, ...args: string[]): BackendProcess {
    const variables = Object.entries(environment).map(([name, value]) => `${name}=${value}`);
    const all = ["serve", "--queues", "2", "--workers", "2", ...args];
    return this.owned.use(new BackendProcess(this.xen, all, ["env", ...variables], 0, SWAPPING_SERVE));
  }

  /** Asks a process to exchange the image. */
  async swap(backend: BackendProcess, image: string, timeoutMs = 20_000): Promise<Exchanged> {
    using client = await clientOf(this.xen, backend);
    return await client.call("swap", { device: deviceLabel(this.device), image, timeoutMs }, { timeoutMs: 100_000 });
  }

  /** The same by the verb: what it prints with --json. */
  async swapByVerb(image: string): Promise<Exchanged & { readonly sizeBytes: number }> {
    const disk = [String(GUEST), formatVdev(this.device.vdev)];
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", CLI, "swap", ...disk, image, "--json"],
      env: { NO_COLOR: "1", ...this.xen.env() },
      stdin: "null",
    }).output();
    assertEquals(code, 0, new TextDecoder().decode(stderr));
    return JSON.parse(new TextDecoder().decode(stdout));
  }

  node(name: string): Promise<string> {
    return nodeValue(this.xen, `${backendPath(this.device)}/${name}`);
  }

  daemons(): Promise<number[]> {
    return daemonsOf(this.xen);
  }

  /** The old image is closed once the guest goes on with the new one. */
  async daemonsEnded(): Promise<void> {
    for (const end = performance.now() + 20_000; (await this.daemons()).length > 0;) {
      assert(performance.now() < end, "a daemon stays without a disk");
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  async killDaemons(signal: Deno.Signal = "SIGKILL"): Promise<void> {
    for (const pid of await this.daemons()) Deno.kill(pid, signal);
  }

  /** Detaches the disk; then every byte is right, the images are sound, and nothing is left. */
  async finish(backend: BackendProcess, raw = `${this.folder}/disk.raw`): Promise<void> {
    await detach(this.xen, this.device);
    assertEquals((await this.disk.verify(raw)).miscompares, 0);
    for (const name of ["one", "two"]) await qemuImg("check", "-q", "-f", "qcow2", `${this.folder}/${name}.qcow2`);
    assertEquals(await backend.stop(), 0, backend.messages);
    await untilNothingIsLeft(this.xen);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.killDaemons();
    await this.owned.disposeAsync();
  }
}
