/**
 * A disk of a real storage daemon with a guest-like writer, its jobs, and copies of what it held at an instant. No test is
 * in here.
 */

import { type BackupOrder, startBackup } from "../../../lib/backup/start.ts";
import { deviceCheck } from "../../../lib/control/device_check.ts";
import { backupKind } from "../../../lib/backup/kind.ts";
import type { JobKind, JobReport } from "../../../lib/jobs/job.ts";
import type { Disk } from "../../../lib/storage/disk.ts";
import { openNativePlatform } from "../../../ffi/platform.ts";
import { deviceOf, JobsRig } from "../jobs/rig.ts";
import { type EngineDisk, EngineRig } from "../qemu/engine_rig.ts";
import { command, until } from "../qemu/rig.ts";

/** As a process that serves does it. */
export const checkDevice = deviceCheck(openNativePlatform(), "the test");

/** The disk that is backed up. */
export const DEVICE = deviceOf(51712);
export const JOB = "vbd3-5-51712-backup";
const VDEV = 51712;

/** Everything, in one folder. */
export class BackupRig implements AsyncDisposable {
  readonly engine = new EngineRig();
  readonly image: string;
  #jobs: JobsRig | undefined;
  #disk: EngineDisk | undefined;
  /** Of the writer: each block's last content. */
  #random = 1;
  readonly #mounts: string[] = [];
  #death: { readonly point: "ended" | "named"; readonly dead: () => void } | undefined;

  constructor() {
    this.image = `${this.engine.folder}/disk.qcow2`;
  }

  get folder(): string {
    return this.engine.folder;
  }

  get jobs(): JobsRig {
    return this.#jobs!;
  }

  get disk(): EngineDisk {
    return this.#disk!;
  }

  /** Makes the image if there is none, opens it, and watches its jobs. */
  async open(sizeMib = 8, name = `qcow2:${this.image}`): Promise<void> {
    if (!await Deno.stat(this.image).then(() => true, () => false)) {
      await command("qemu-img", "create", "-q", "-f", name.replace(/:.*/, ""), this.image, `${sizeMib}M`);
    }
    this.#disk = await this.engine.open(name, { engine: "qemu" }, VDEV);
    await this.watch();
  }

  /** A process of ours begins to watch. */
  async watch(): Promise<void> {
    this.#jobs = new JobsRig(this.folder, { backup: () => Promise.resolve(this.#dyingKind()) });
    this.#jobs.disks.set(DEVICE, this.disk.disk);
    await this.#jobs.open();
  }

  /** The process dies when the next backup's job has ended, or when the backup has its name; `dead` is called then. */
  dieAt(point: "ended" | "named", dead: () => void): void {
    this.#death = { point, dead };
  }

  #dyingKind(): JobKind {
    return {
      ...backupKind,
      end: async (end) => {
        const { point, dead } = this.#death ?? {};
        this.#death = undefined;
        if (point === "named") await backupKind.end(end);
        if (dead === undefined) return await backupKind.end(end);
        dead();
        return await new Promise(() => {});
      },
    };
  }

  async close(): Promise<void> {
    await this.#disk?.[Symbol.asyncDispose]();
    this.#disk = undefined;
    this.#jobs?.disks.clear();
    await this.#jobs?.[Symbol.asyncDispose]();
    this.#jobs = undefined;
  }

  async start(target: string, more: Partial<BackupOrder> = {}, disk: Disk = this.disk.disk): Promise<JobReport> {
    return await this.readUntil(startBackup(this.jobs.jobs, { device: DEVICE, disk, target, checkDevice, ...more }));
  }

  /** Makes one, and writes while it is made. */
  async backUp(target: string, more: Partial<BackupOrder> = {}): Promise<JobReport> {
    await this.start(target, more);
    return await this.writeUntil(this.jobs.over(JOB));
  }

  /** Reads until that has settled: this thread is the reactor, which has to notice when its requests are led elsewhere. */
  async readUntil<T>(end: Promise<T>): Promise<T> {
    let isOver = false;
    void end.then(() => isOver = true, () => isOver = true);
    while (!isOver) {
      await this.disk.read(0, 4096);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    return await end;
  }

  /** Writes here and there, as a guest does, until that has settled; flushes now and then. */
  async writeUntil<T>(end: Promise<T>): Promise<T> {
    let isOver = false;
    void end.then(() => isOver = true, () => isOver = true);
    for (let round = 0; !isOver; round++) {
      await this.write(1);
      if (round % 8 === 0) await this.disk.flush();
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    return await end;
  }

  /** So many writes at random places, of random lengths; every fourth frees its range. */
  async write(count: number): Promise<void> {
    for (let done = 0; done < count; done++) {
      const length = 4096 * (1 + this.#next(32));
      const at = 4096 * this.#next((this.disk.sizeBytes - length) / 4096);
      if (this.#next(4) === 0) await this.disk.discard(at, length);
      else await this.disk.write(at, new Uint8Array(length).fill(1 + this.#next(255)));
    }
  }

  /** What the disk holds, as a raw file beside. The writer must not run. */
  async copy(name: string): Promise<string> {
    const path = `${this.folder}/${name}`;
    using file = await Deno.open(path, { write: true, create: true });
    for (let at = 0; at < this.disk.sizeBytes; at += 1 << 20) {
      await file.write(await this.disk.read(at, Math.min(1 << 20, this.disk.sizeBytes - at)));
    }
    return path;
  }

  /** Names of files beside the image. */
  files(pattern: RegExp): string[] {
    return [...Deno.readDirSync(this.folder)].map(({ name }) => name).filter((name) => pattern.test(name));
  }

  /** A file system of that size. */
  async tmpfs(size: string): Promise<string> {
    const path = `${this.folder}/small`;
    Deno.mkdirSync(path);
    await command("mount", "-t", "tmpfs", "-o", `size=${size}`, "xenblk-test", path);
    this.#mounts.push(path);
    return path;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
    for (const path of this.#mounts) await command("umount", path);
    await this.engine[Symbol.asyncDispose]();
  }

  #next(below: number): number {
    this.#random = (this.#random * 1103515245 + 12345) & 0x7fffffff;
    return (this.#random >> 8) % Math.floor(below);
  }
}

/** A server of one raw file. */
export class NbdServer implements AsyncDisposable {
  readonly #process: Deno.ChildProcess;

  private constructor(process: Deno.ChildProcess, readonly file: string, readonly uri: string) {
    this.#process = process;
  }

  static async start(folder: string, name: string, sizeMib: number): Promise<NbdServer> {
    const [file, socket] = [`${folder}/${name}.raw`, `${folder}/${name}.sock`];
    await command("qemu-img", "create", "-q", "-f", "raw", file, `${sizeMib}M`);
    const args = ["-k", socket, "-f", "raw", "-e", "4", "--persistent", file];
    const process = new Deno.Command("qemu-nbd", { args, stdin: "null", stdout: "null", stderr: "null" }).spawn();
    await until("qemu-nbd listens", () => Deno.stat(socket).then(() => true, () => undefined));
    return new NbdServer(process, file, `nbd+unix:///?socket=${socket}`);
  }

  signal(name: Deno.Signal): void {
    this.#process.kill(name);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#process.kill("SIGTERM");
    } catch {
      // it has ended
    }
    await this.#process.status;
  }
}

/** Throws unless both images have the same content. */
export async function sameContent(backup: string, format: string, reference: string): Promise<void> {
  await command("qemu-img", "compare", "-f", format, "-F", "raw", backup, reference);
}
