/**
 * A raw image that stays while another one serves it: a storage daemon, then its own engine again. What the nodes say at
 * each step, whoever opens the image next, and what is refused.
 */

import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { DeviceNodes } from "../../lib/backend/device_nodes.ts";
import { isVisit, UNKNOWN_FILE } from "../../lib/backend/in_daemon.ts";
import type { BackendKind } from "../../lib/backend/kind.ts";
import type { DeviceSettings } from "../../lib/backend/settings.ts";
import { errorText, XenblkError } from "../../lib/errors.ts";
import { XenstoreError } from "../../lib/hypervisor.ts";
import type { Disk, DiskRequest } from "../../lib/storage/disk.ts";
import { openDisk } from "../../lib/storage/open.ts";
import type { AttachRequest } from "../../lib/toolstack/attach.ts";
import { backendPath, type DeviceAddress } from "../../lib/xenbus/paths.ts";
import { Rig, RING_NODES, until } from "./rig.ts";

const MIB = 2 ** 20;

/** A connected disk with a raw file of 1 MiB, and a storage daemon that is played by this process. */
class Stage implements AsyncDisposable {
  readonly rig = new Rig();
  readonly folder = Deno.makeTempDirSync({ prefix: "xenblk-in-daemon-" });
  readonly path = `${this.folder}/disk.raw`;
  /** The engine of each opening. */
  readonly engines: string[] = [];
  /** Called before an image is opened. */
  opening: (engine: string) => void = () => {};
  /** The daemon has another file open than the one that is at the path. */
  isReplaced = false;
  kind!: BackendKind;
  device!: DeviceAddress;

  static async open(settings: Partial<DeviceSettings> = {}, attach: Partial<AttachRequest> = {}): Promise<Stage> {
    const stage = new Stage();
    Deno.writeFileSync(stage.path, new Uint8Array(MIB));
    stage.device = stage.rig.attach({ params: stage.path, ...attach });
    stage.serve(settings);
    await stage.connect();
    return stage;
  }

  serve(settings: Partial<DeviceSettings> = {}): void {
    this.kind = this.rig.serve(settings, { openDisk: (request) => this.#open(request) });
  }

  async connect(): Promise<void> {
    this.rig.guestWrites(this.device, { ...RING_NODES, state: "3" });
    await this.rig.backendReaches(this.device, 4);
    this.rig.guestWrites(this.device, { state: "4" });
    await this.rig.idle(this.device);
  }

  async move(daemon: boolean): Promise<void> {
    await this.kind.find(this.device)!.exchange({ daemon, timeoutMs: 20_000 });
  }

  async refused(daemon: boolean): Promise<string> {
    return errorText(await assertRejects(() => this.move(daemon), XenblkError));
  }

  /** What the node says, and who serves each ring. */
  get state(): [node: string | undefined, served: string[]] {
    const disks = this.rig.plane.open.map(({ spec: { disk } }) => disk.daemon === undefined ? "own" : "daemon");
    return [this.rig.backend(this.device, "in-daemon"), disks];
  }

  /** The node of the file that is at the path. */
  get file(): string {
    const { dev, ino } = Deno.statSync(this.path);
    return `${dev}:${ino}`;
  }

  /** Another file takes the path. */
  replace(): void {
    Deno.renameSync(this.path, `${this.path}.own`);
    Deno.copyFileSync(`${this.path}.own`, this.path);
  }

  restore(): void {
    Deno.renameSync(`${this.path}.own`, this.path);
  }

  async #open(request: DiskRequest): Promise<Disk> {
    const { engine, format, target } = request;
    this.opening(engine);
    this.engines.push(engine);
    const disk = await openDisk({ ...request, engine: "auto" });
    if (engine !== "qemu") return disk;
    const no = (): Promise<never> => Promise.reject(new Error("it is not a daemon"));
    return {
      properties: disk.properties,
      description: `${format}:${target} (engine qemu)`,
      daemon: {
        top: "",
        prefix: "",
        image: { format, target },
        layers: {},
        run: no,
        find: no,
        isReplaced: () => Promise.resolve(this.isReplaced),
      },
      attachment: (lane) => disk.attachment(lane),
      [Symbol.asyncDispose]: () => Promise.resolve(disk[Symbol.asyncDispose]()),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.rig[Symbol.asyncDispose]();
    Deno.removeSync(this.folder, { recursive: true });
  }
}

Deno.test("the node says who serves the image: to a guest that connects again, and to the next process", async () => {
  await using stage = await Stage.open();
  const { rig, device, file } = stage;
  assertEquals(stage.state, [undefined, ["own"]]);
  rig.writes.length = 0;
  await stage.move(true);
  assertEquals(stage.state, [file, ["daemon"]]);
  assertEquals(rig.writes.map(({ path }) => path.slice(backendPath(device).length + 1)), ["params", "in-daemon"]);
  assertEquals(rig.backend(device, "params"), stage.path);
  const { image } = stage.kind.heldBy(device)!;
  assertEquals(isVisit(image!.description, image!.disk, "auto"), true);
  rig.guestWrites(device, { state: "6" });
  await rig.backendReaches(device, 6);
  rig.guestWrites(device, { state: "1" });
  await rig.backendReaches(device, 2);
  await stage.connect();
  assertEquals(stage.state, [file, ["daemon"]]);
  await stage.kind.close({ leave: "connected", timeoutMs: 0 }, 1000);
  stage.serve();
  await until("it is served", () => stage.rig.plane.open.length === 1);
  await rig.idle(device);
  assertEquals(stage.state, [file, ["daemon"]]);
  await stage.move(false);
  assertEquals(stage.state, [undefined, ["own"]]);
  assertEquals(stage.engines, ["auto", "qemu", "qemu", "qemu", "auto"]);
});

Deno.test("a disk that visits its daemon, and is served by it for good since a restart, does not leave", async () => {
  await using stage = await Stage.open();
  const { rig, device, file } = stage;
  await stage.move(true);
  for (const [engine, visits] of [["qemu", false], ["auto", true]] as const) {
    await stage.kind.close({ leave: "connected", timeoutMs: 0 }, 1000);
    stage.serve({ engine });
    await until("it is served", () => stage.rig.plane.open.length === 1);
    await rig.idle(device);
    assertEquals(stage.state, [file, ["daemon"]]);
    const held = stage.kind.heldBy(device)!;
    assertEquals(isVisit(held.image!.description, held.image!.disk, held.engine), visits);
  }
});

Deno.test("a daemon that has another file open than the path's keeps the image, which came to it by its name", async () => {
  await using stage = await Stage.open();
  const { rig, device } = stage;
  await stage.move(true);
  await stage.kind.close({ leave: "connected", timeoutMs: 0 }, 1000);
  rig.toolstack.write(`${backendPath(device)}/in-daemon`, UNKNOWN_FILE);
  stage.serve();
  await until("it is served", () => stage.rig.plane.open.length === 1);
  await rig.idle(device);
  stage.isReplaced = true;
  assertMatch(await stage.refused(false), /^Cannot go on with .*disk\.raw: another file has taken the place/);
  assertEquals(stage.state, [UNKNOWN_FILE, ["daemon"]]);
  stage.isReplaced = false;
  await stage.move(false);
  assertEquals(stage.state, [undefined, ["own"]]);
});

Deno.test("another image has no part in the visit of the one before", async () => {
  await using stage = await Stage.open();
  await stage.move(true);
  const other = `${stage.folder}/other.raw`;
  Deno.copyFileSync(stage.path, other);
  await stage.kind.find(stage.device)!.exchange({ params: other, timeoutMs: 20_000 });
  assertEquals(stage.state, [undefined, ["own"]]);
});

Deno.test("where the answer to the commit is lost, the node says again what is served", async () => {
  await using stage = await Stage.open();
  const { nameImage } = DeviceNodes.prototype;
  for (const daemon of [true, false]) {
    const before = stage.state;
    DeviceNodes.prototype.nameImage = function (...args): boolean {
      DeviceNodes.prototype.nameImage = nameImage;
      nameImage.apply(this, args);
      throw new XenstoreError("Cannot write: the connection to xenstored was lost", "EDISCONNECTED", "params");
    };
    await assertRejects(() => stage.move(daemon), XenblkError);
    await until("the nodes are as before", () => JSON.stringify(stage.state) === JSON.stringify(before));
    await stage.rig.idle(stage.device);
    await stage.move(daemon);
  }
  assertEquals(stage.state, [undefined, ["own"]]);
});

Deno.test("a file that is not the disk's any more is refused before the guest waits, while it waits, and once it is open", async () => {
  await using stage = await Stage.open();
  const { rig } = stage;
  const other = /another file has taken the place of the disk's image/;
  for (const daemon of [true, false]) {
    const before = stage.state;
    stage.replace();
    const rings = rig.plane.queues.length;
    assertMatch(await stage.refused(daemon), other);
    assertEquals(rig.plane.queues.length, rings, "no ring was let go");
    stage.restore();
    rig.plane.open[0]!.mayRelease = (): Promise<boolean> => (stage.replace(), Promise.resolve(true));
    assertMatch(await stage.refused(daemon), other);
    assertEquals(stage.state, before);
    stage.restore();
    stage.opening = (engine): void => {
      if ((engine === "qemu") === daemon) stage.replace();
    };
    assertMatch(await stage.refused(daemon), other);
    stage.opening = (): void => {};
    stage.restore();
    await until("it is served as before", () => JSON.stringify(stage.state) === JSON.stringify(before));
    await rig.idle(stage.device);
    await stage.move(daemon);
  }
  Deno.removeSync(stage.path);
  assertMatch(await stage.refused(true), /Cannot look at .*: No such file/);
});

Deno.test("what a daemon would show with another size, and what is no raw file, does not enter", async () => {
  {
    await using stage = await Stage.open();
    Deno.truncateSync(stage.path, 2 * MIB);
    assertMatch(await stage.refused(true), /it has 4096 sectors there, and the disk has 2048/);
    assertEquals(stage.state, [undefined, ["own"]]);
  }
  {
    await using stage = await Stage.open({}, { params: "memory:1M" });
    assertMatch(await stage.refused(true), /only raw files and block devices go there and back/);
  }
  await using stage = await Stage.open({}, { cdrom: true, readOnly: true });
  assertMatch(await stage.refused(true), /it is in a CD-ROM drive/);
});

Deno.test("a disk that is read-only enters, and one whose image the command line names", async () => {
  {
    await using stage = await Stage.open({}, { readOnly: true });
    await stage.move(true);
    await stage.move(false);
    assertEquals(stage.state, [undefined, ["own"]]);
  }
  const image = Deno.makeTempFileSync({ prefix: "xenblk-in-daemon-" });
  try {
    Deno.truncateSync(image, MIB);
    await using stage = await Stage.open({ image }, { params: "null:1M" });
    await stage.move(true);
    assertEquals(stage.rig.backend(stage.device, "params"), "null:1M");
    await stage.move(false);
    assertEquals(stage.engines, ["auto", "qemu", "auto"]);
  } finally {
    Deno.removeSync(image);
  }
});
