/**
 * Disks of storage daemons behind `xenblk serve`: read-only and CD-ROM disks, backing files elsewhere, refusals, several
 * disks and guests, what `list`, `show` and `doctor` say of them, and the end of a guest.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import type { DomId } from "../../../lib/hypervisor.ts";
import type { AttachRequest } from "../../../lib/toolstack/attach.ts";
import { type DeviceAddress, frontendPath } from "../../../lib/xenbus/paths.ts";
import { nativeTest, NativeXen } from "../harness.ts";
import { attach, BackendProcess, detach, nodeValue } from "./backend.ts";
import { qemuImg } from "../qemu_img.ts";
import { daemonsOf, untilNothingIsLeft } from "./format_stage.ts";
import { type GuestDisk, GuestProcess } from "./guest.ts";
import { assertClean, assertProgress, GUEST, LOAD, received, UNTIL_STOPPED } from "./scenes.ts";

const CLI = new URL("../../../cli.ts", import.meta.url).pathname;
const SIZE_BYTES = 2 ** 26;
const OTHER_GUEST = 8;

/** A host with images and guests. */
class Host implements AsyncDisposable {
  readonly #owned = new AsyncDisposableStack();

  private constructor(readonly xen: NativeXen) {
    this.#owned.use(xen);
  }

  static async start(): Promise<Host> {
    const host = new Host(await NativeXen.start());
    Deno.mkdirSync(`${host.xen.directory}/images`);
    return host;
  }

  async guest(domid = GUEST): Promise<GuestProcess> {
    await this.xen.createDomain(domid);
    return this.#owned.use(new GuestProcess(this.xen, domid));
  }

  /** Makes an image; its path. */
  async image(name = "disk.qcow2", ...more: string[]): Promise<string> {
    const path = `${this.xen.directory}/images/${name}`;
    await qemuImg("create", "-q", "-f", "qcow2", ...more, path, `${SIZE_BYTES}`);
    return path;
  }

  serve(...args: string[]): BackendProcess {
    return this.#owned.use(new BackendProcess(this.xen, ["serve", ...args]));
  }

  /** Writes the nodes of a disk for a guest. */
  async offer(
    guest: GuestProcess,
    request: Partial<AttachRequest>,
  ): Promise<{ readonly device: DeviceAddress; readonly disk: GuestDisk; readonly path: string }> {
    const device = await attach(this.xen, { domain: guest.domid as DomId, ...request });
    const path = `/local/domain/0/backend/vbd3/${guest.domid}/${device.vdev}`;
    return { device, disk: await guest.disk(frontendPath(device)), path };
  }

  /** What a verb prints. */
  async prints(...args: string[]): Promise<string> {
    return await this.xen.run(Deno.execPath(), ["run", "-A", "--no-check", CLI, ...args]);
  }

  /** Ends a guest as `xl destroy` does, which removes the backend directories at last. */
  async destroy(domid = GUEST): Promise<void> {
    await this.xen.destroyDomain(domid);
    await this.xen.run("xenstore-rm", [`/local/domain/0/backend/vbd3/${domid}`]);
  }

  isClear(): Promise<void> {
    return untilNothingIsLeft(this.xen);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const pid of await daemonsOf(this.xen)) Deno.kill(pid, "SIGKILL");
    await this.#owned.disposeAsync();
  }
}

nativeTest("a guest is destroyed while serve runs: its daemon ends, and nothing of it is left", async () => {
  await using host = await Host.start();
  const backend = host.serve();
  const guest = await host.guest();
  const { disk } = await host.offer(guest, { params: `qcow2:${await host.image()}` });
  await disk.connect();
  await disk.startLoad(UNTIL_STOPPED);
  await assertProgress(disk, 100);
  await guest.kill();
  await host.destroy();
  await host.isClear();
  assertEquals(await backend.stop(), 0, backend.messages);
  await qemuImg("check", "-q", `${host.xen.directory}/images/disk.qcow2`);
});

nativeTest("a guest is destroyed while its daemon is dead: what it had written is written first", async () => {
  await using host = await Host.start();
  const backend = host.serve();
  const guest = await host.guest();
  const image = await host.image();
  const { disk } = await host.offer(guest, { params: `qcow2:${image}` });
  await disk.connect();
  assertClean(received(await disk.load({ ...LOAD, requests: 300, flushEvery: 0, barrierEvery: 0 })), backend.messages);
  const [pid] = await daemonsOf(host.xen);
  Deno.kill(pid!, "SIGKILL");
  await host.destroy();
  await host.isClear();
  assertEquals(await backend.stop(), 0, backend.messages);
  await qemuImg("convert", "-f", "qcow2", "-O", "raw", image, `${image}.raw`);
  assertEquals((await disk.verify(`${image}.raw`)).miscompares, 0, backend.messages);
});

nativeTest(
  "of a guest with two disks, one is removed while serve and the daemon are dead: its log is written, the other goes on",
  async () => {
    await using host = await Host.start();
    const first = host.serve();
    const guest = await host.guest();
    const [one, two] = [await host.image("one.qcow2"), await host.image("two.qcow2")];
    const gone = await host.offer(guest, { params: `qcow2:${one}`, vdev: "xvda" } as Partial<AttachRequest>);
    const kept = await host.offer(guest, { params: `qcow2:${two}`, vdev: "xvdb" } as Partial<AttachRequest>);
    const unflushed = { ...LOAD, requests: 300, flushEvery: 0, barrierEvery: 0 };
    for (const { disk } of [gone, kept]) await disk.connect();
    assertClean(received(await gone.disk.load(unflushed)), first.messages);
    await kept.disk.startLoad(UNTIL_STOPPED);
    await assertProgress(kept.disk, 100);
    const [pid] = await daemonsOf(host.xen);
    await first.stop("SIGKILL");
    Deno.kill(pid!, "SIGKILL");
    await host.xen.run("xenstore-rm", [gone.path]);
    const backend = host.serve();
    await backend.says(/one\.qcow2: .*operations of its log were written again/);
    await assertProgress(kept.disk, 100);
    assertClean(received(await kept.disk.stopLoad()), backend.messages);
    await detach(host.xen, kept.device);
    await host.isClear();
    for (const [{ disk }, image] of [[gone, one], [kept, two]] as const) {
      await qemuImg("convert", "-f", "qcow2", "-O", "raw", image, `${image}.raw`);
      assertEquals((await disk.verify(`${image}.raw`)).miscompares, 0, backend.messages);
    }
    assertEquals(await backend.stop(), 0, backend.messages);
  },
);

nativeTest("a read-only disk and a CD-ROM drive read a qcow2, and nothing can be written", async () => {
  await using host = await Host.start();
  const guest = await host.guest();
  const image = await host.image();
  const backend = host.serve();
  const before = Deno.readFileSync(image);
  for (const [vdev, cdrom] of [["xvda", false], ["xvdb", true]] as const) {
    const request = { params: `qcow2:${image}`, vdev, readOnly: true, cdrom } as Partial<AttachRequest>;
    const { device, disk, path } = await host.offer(guest, request);
    assertEquals((await disk.connect()).readOnly, true);
    assertClean(received(await disk.load({ ...LOAD, requests: 100, readShare: 1 })), backend.messages);
    const { errors, writes } = await disk.load({ ...LOAD, requests: 50, readShare: 0 }, true);
    assert(errors > 0 && writes === 0, "writes are refused");
    const info = Number(await nodeValue(host.xen, `${path}/info`));
    assertEquals(info & 5, cdrom ? 5 : 4, "VDISK_CDROM and VDISK_READONLY");
    await detach(host.xen, device);
  }
  assertEquals(Deno.readFileSync(image), before, "the image is as it was");
  await host.isClear();
  assertEquals(await backend.stop(), 0, backend.messages);
});

nativeTest("a snapshot inside a qcow2 is read by name, also by the next daemon and the next serve", async () => {
  await using host = await Host.start();
  const guest = await host.guest();
  const image = await host.image();
  await qemuImg("snapshot", "-c", "before", image);
  await host.xen.run("qemu-io", ["-f", "qcow2", "-c", `write -P 0xaa 0 ${SIZE_BYTES}`, image]);
  const bytes = Deno.readFileSync(image);
  const params = `format=qcow2,snapshot=before,target=${image}`;
  const first = host.serve();
  const written = await host.offer(guest, { params, vdev: "xvda", readOnly: false });
  assertMatch(await nodeValue(host.xen, `${written.path}/error`), /a snapshot can only be read; attach it read-only/);
  await detach(host.xen, written.device);
  const { device, disk } = await host.offer(guest, { params, vdev: "xvdb", readOnly: true });
  await disk.connect();
  // The disk held nothing when the snapshot was taken; each read is compared.
  const reads = { ...LOAD, requests: 100, readShare: 1 };
  assertClean(received(await disk.load(reads)), first.messages);
  for (const pid of await daemonsOf(host.xen)) Deno.kill(pid, "SIGKILL");
  assertClean(received(await disk.load(reads)), first.messages);
  await first.stop("SIGKILL");
  const second = host.serve();
  await second.says(/connected:/);
  assertClean(received(await disk.load(reads)), second.messages);
  await detach(host.xen, device);
  await host.isClear();
  assertEquals(await second.stop(), 0, second.messages);
  assertEquals(Deno.readFileSync(image), bytes, "the image is as it was");
});

nativeTest(
  "a backing file elsewhere is refused with the option that allows it, and served with that option",
  async () => {
    await using host = await Host.start();
    const guest = await host.guest();
    Deno.mkdirSync(`${host.xen.directory}/elsewhere`);
    const base = `${host.xen.directory}/elsewhere/base.qcow2`;
    await qemuImg("create", "-q", "-f", "qcow2", base, `${SIZE_BYTES}`);
    const image = await host.image("top.qcow2", "-b", base, "-F", "qcow2");
    const { disk, path, device } = await host.offer(guest, { params: `qcow2:${image}` });
    const first = host.serve();
    const error = await nodeValue(host.xen, `${path}/error`);
    assertMatch(error, /names the backing file .*base\.qcow2, which is not in the image's own directory/);
    assertMatch(error, /--allow-image/);
    assertEquals(await first.stop(), 0, first.messages);
    const second = host.serve("--allow-image", `${host.xen.directory}/elsewhere/*`);
    await disk.connect();
    assertClean(received(await disk.load({ ...LOAD, requests: 200 })), second.messages);
    await detach(host.xen, device);
    await host.isClear();
    assertEquals(await second.stop(), 0, second.messages);
  },
);

nativeTest("a VHD of differences is refused, and the error names the conversion", async () => {
  await using host = await Host.start();
  const guest = await host.guest();
  const image = `${host.xen.directory}/images/child.vhd`;
  await qemuImg("create", "-q", "-f", "vpc", image, "64M");
  using file = Deno.openSync(image, { write: true });
  file.seekSync(60, Deno.SeekMode.Start);
  file.writeSync(Uint8Array.of(0, 0, 0, 4));
  const { path } = await host.offer(guest, { params: `vhd:${image}` });
  const backend = host.serve();
  assertMatch(await nodeValue(host.xen, `${path}/error`), /holds only differences to its parent/);
  await backend.says(/vhd-util coalesce/);
  assertEquals(await daemonsOf(host.xen), []);
  assertEquals(await backend.stop(), 0, backend.messages);
});

nativeTest(
  "a storage daemon that is named wrongly is said in the disk's nodes, and the next serve has it right",
  async () => {
    await using host = await Host.start();
    const guest = await host.guest();
    const { disk, path, device } = await host.offer(guest, { params: `qcow2:${await host.image()}` });
    {
      await using backend = new BackendProcess(host.xen, ["serve"], [
        "env",
        "XENBLK_QEMU_STORAGE_DAEMON=/no/such/program",
      ]);
      assertMatch(await nodeValue(host.xen, `${path}/error`), /\/no\/such\/program/);
      assertEquals(await nodeValue(host.xen, `${path}/hotplug-status`), "error");
      assertEquals(await backend.stop(), 0, backend.messages);
    }
    const backend = host.serve();
    await disk.connect();
    assertEquals(await nodeValue(host.xen, `${path}/hotplug-status`, "connected"), "connected");
    assertClean(received(await disk.load({ ...LOAD, requests: 100 })), backend.messages);
    await detach(host.xen, device);
    await host.isClear();
    assertEquals(await backend.stop(), 0, backend.messages);
  },
);

for (const perDisk of [false, true]) {
  const daemons = perDisk ? 4 : 2;
  nativeTest(
    `two guests with two disks each have ${daemons} daemons${perDisk ? ", with --daemon-per-disk" : ""}; one dies`,
    async () => {
      await using host = await Host.start();
      const backend = host.serve(...(perDisk ? ["--daemon-per-disk"] : []));
      const offers = [];
      for (const guest of [await host.guest(), await host.guest(OTHER_GUEST)]) {
        for (const vdev of ["xvda", "xvdb"]) {
          const image = await host.image(`${guest.domid}-${vdev}.qcow2`);
          offers.push({
            ...await host.offer(guest, { params: `qcow2:${image}`, vdev } as Partial<AttachRequest>),
            image,
          });
        }
      }
      for (const { disk } of offers) await disk.connect();
      const pids = await daemonsOf(host.xen);
      assertEquals(pids.length, daemons);
      for (const { disk } of offers) await disk.startLoad(UNTIL_STOPPED);
      for (const { disk } of offers) await assertProgress(disk, 50);
      Deno.kill(pids[0]!, "SIGKILL");
      await backend.says(new RegExp(`(served again after[^]*){${perDisk ? 1 : 2}}`));
      for (const { disk, device, image } of offers) {
        await assertProgress(disk, 50);
        assertClean(received(await disk.stopLoad()), backend.messages);
        await detach(host.xen, device);
        await qemuImg("convert", "-f", "qcow2", "-O", "raw", image, `${image}.raw`);
        assertEquals((await disk.verify(`${image}.raw`)).miscompares, 0);
      }
      await host.isClear();
      assertEquals(await backend.stop(), 0, backend.messages);
    },
  );
}

nativeTest("list, show and doctor know a daemon's disk, also after serve has ended", async () => {
  await using host = await Host.start();
  const guest = await host.guest();
  const image = await host.image();
  const backend = host.serve();
  const { disk, device } = await host.offer(guest, { params: `qcow2:${image}` });
  await disk.connect();
  const [listed] = JSON.parse(await host.prints("list", "--json"));
  assertEquals([listed.params, listed.backendState], [`qcow2:${image}`, "Connected"]);
  assertMatch(await host.prints("list"), /qcow2:.*disk\.qcow2/);
  const shown = JSON.parse(await host.prints("show", `${GUEST}`, "xvda", "--json"));
  assertEquals([shown.params, shown.sectors], [`qcow2:${image}`, SIZE_BYTES / 512]);
  assertMatch(await host.prints("show", `${GUEST}`, "xvda"), /image +qcow2:.*disk\.qcow2/);
  const [pid] = await daemonsOf(host.xen);
  const doctor = async (...args: string[]): Promise<string> => {
    const command = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", CLI, "doctor", ...args],
      env: host.xen.env(0),
    });
    return new TextDecoder().decode((await command.output()).stdout);
  };
  assertMatch(await doctor(), /storage daemon/i);
  await backend.stop("SIGKILL");
  Deno.kill(pid!, "SIGKILL");
  assertMatch(await doctor("--json"), new RegExp(`${pid}`), "the dead daemon is named");
  const next = host.serve();
  await next.says(/connected:/);
  assertClean(received(await disk.load({ ...LOAD, requests: 100 })), next.messages);
  await detach(host.xen, device);
  await host.isClear();
  assertEquals(await next.stop(), 0, next.messages);
});
