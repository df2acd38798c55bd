/**
 * A guest with one disk of a format that QEMU's storage daemon serves, and the ends of `serve` and its daemon under load:
 * for the tests of formats and for the task `kills`.
 */

import { assert, assertEquals } from "@std/assert";
import type { DomId } from "../../../lib/hypervisor.ts";
import { type DeviceAddress, frontendPath } from "../../../lib/xenbus/paths.ts";
import { NativeXen } from "../harness.ts";
import { qemuImg } from "../qemu_img.ts";
import { attach, BackendProcess, detach } from "./backend.ts";
import { type GuestDisk, GuestProcess, type RingShape } from "./guest.ts";
import { DiskFolder, GUEST } from "./scenes.ts";

const SIZE = "64M";

/** A daemon that was killed may leave clusters that nothing refers to, but nothing wrong. */
export async function assertSound(format: string, image: string, ...options: readonly string[]): Promise<void> {
  const { code, stdout, stderr } = await new Deno.Command("qemu-img", {
    args: ["check", "--output=json", ...options, "-f", format, image],
  }).output();
  const text = new TextDecoder();
  const said = text.decode(stdout) + text.decode(stderr);
  assert(code === 0 || code === 3, said);
  const { corruptions = 0, "check-errors": errors = 0 } = JSON.parse(text.decode(stdout));
  assertEquals([corruptions, errors], [0, 0], said);
}

/** The storage daemons that run for a test, by process number. */
export async function daemonsOf(xen: NativeXen): Promise<number[]> {
  const found: number[] = [];
  for await (const { name } of Deno.readDir("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const line = await Deno.readTextFile(`/proc/${name}/cmdline`).catch(() => "");
    if (/^[^\0]*qemu-storage-daemon\0/.test(line) && line.includes(xen.directory)) found.push(Number(name));
  }
  return found;
}

/** What is kept in the run directory beside the locks of devices, sockets and records of jobs: journals, write logs, directories of daemons. */
export function leftovers(xen: NativeXen): string[] {
  const namesIn = (path: string): string[] => {
    try {
      return [...Deno.readDirSync(path)].map(({ name }) => name);
    } catch {
      return []; // nothing was ever kept there
    }
  };
  const directory = `${xen.directory}/journals`;
  const daemons = namesIn(`${directory}/daemons`).filter((name) => name !== "probe");
  return [...namesIn(directory).filter((name) => !["daemons", "control", "jobs"].includes(name)), ...daemons];
}

/** Waits until no daemon runs and nothing is kept. */
export async function untilNothingIsLeft(xen: NativeXen): Promise<void> {
  for (const end = performance.now() + 20_000;;) {
    const left = [...(await daemonsOf(xen)).map(String), ...leftovers(xen)];
    if (left.length === 0) return;
    assert(performance.now() < end, `left: ${left.join(", ")}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** A guest with one disk of a format. */
export class FormatStage implements AsyncDisposable {
  readonly #owned: AsyncDisposableStack;

  private constructor(
    readonly xen: NativeXen,
    readonly folder: string,
    readonly image: string,
    readonly format: string,
    readonly device: DeviceAddress,
    readonly disk: GuestDisk,
    owned: AsyncDisposableStack,
  ) {
    this.#owned = owned;
  }

  /** `params` is the value of that node for an image file, which is in a folder of its own. */
  static async open(
    format: string,
    options: readonly string[] = [],
    shape: RingShape = {},
    params: (image: string) => string | Promise<string> = (image) => `${format}:${image}`,
  ): Promise<FormatStage> {
    await using undo = new AsyncDisposableStack();
    const xen = undo.use(await NativeXen.start());
    await xen.createDomain(GUEST);
    const guest = undo.use(new GuestProcess(xen, GUEST));
    const folder = undo.use(new DiskFolder());
    const image = `${folder.path}/disk.${format}`;
    await qemuImg("create", "-q", "-f", format, ...options, image, SIZE);
    const device = await attach(xen, { domain: GUEST as DomId, params: await params(image), readOnly: false });
    const disk = await guest.disk(frontendPath(device), undefined, {}, shape);
    return new FormatStage(xen, folder.path, image, format, device, disk, undo.move());
  }

  serve(...args: string[]): BackendProcess {
    return this.serveIn([], ...args);
  }

  /** `confinement` is a program with arguments that executes `serve` at its end. */
  serveIn(confinement: readonly string[], ...args: string[]): BackendProcess {
    return this.#owned.use(new BackendProcess(this.xen, ["serve", ...args], confinement));
  }

  /** See {@linkcode daemonsOf}. */
  daemons(): Promise<number[]> {
    return daemonsOf(this.xen);
  }

  async killDaemon(signal: Deno.Signal = "SIGKILL"): Promise<void> {
    const [pid] = await this.daemons();
    assert(pid !== undefined, "no daemon runs");
    Deno.kill(pid, signal);
  }

  /** Every byte in the image is what the guest has written. Nobody may have it open. */
  async verify(): Promise<void> {
    const raw = `${this.folder}/copy.raw`;
    if (this.format !== "vpc" && this.format !== "raw") await assertSound(this.format, this.image);
    await qemuImg("convert", "-f", this.format, "-O", "raw", this.image, raw);
    assertEquals((await this.disk.verify(raw)).miscompares, 0);
  }

  /** Detaches the disk; then the image is right, and nothing is left. */
  async finish(backend: BackendProcess, whenDetached?: () => Promise<void>): Promise<void> {
    await detach(this.xen, this.device);
    await whenDetached?.();
    await this.verify();
    assertEquals(await backend.stop(), 0, backend.messages);
    assertEquals(await this.daemons(), [], "the daemon has ended");
    assertEquals(leftovers(this.xen), [], "nothing is kept");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const pid of await this.daemons()) Deno.kill(pid, "SIGKILL");
    await this.#owned.disposeAsync();
  }
}
