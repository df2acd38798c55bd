/**
 * `xenblk cd-eject` and `cd-insert` with a real `serve` and a guest that reads: requests in flight are answered, a bad disc
 * leaves the drive empty, and the death of `serve` meanwhile is no end of it.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import type { DomId } from "../../../lib/hypervisor.ts";
import { backendPath, frontendPath } from "../../../lib/xenbus/paths.ts";
import { nativeTest, NativeXen } from "../harness.ts";
import { qemuImg } from "../qemu_img.ts";
import { attach, BackendProcess, detach, nodeValue, sparseImage } from "./backend.ts";
import { untilNothingIsLeft } from "./format_stage.ts";
import { GuestProcess } from "./guest.ts";
import { assertClean, assertProgress, DiskFolder, GUEST, received, UNTIL_STOPPED } from "./scenes.ts";

const CLI = new URL("../../../cli.ts", import.meta.url).pathname;
const READS = { ...UNTIL_STOPPED, readShare: 1, flushEvery: 0, barrierEvery: 0 };

async function xenblk(xen: NativeXen, ...args: string[]): Promise<readonly [number, string]> {
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", CLI, ...args],
    env: { NO_COLOR: "1", ...xen.env() },
    stdin: "null",
  }).output();
  return [code, new TextDecoder().decode(stderr)];
}

nativeTest(
  "a disc is taken out while the guest reads, a bad one and a good one are put in, serve dies between",
  async () => {
    await using xen = await NativeXen.start();
    await xen.createDomain(GUEST);
    await using guest = new GuestProcess(xen, GUEST);
    const [first, second] = [
      sparseImage(xen.directory, "a.iso", 2 ** 24),
      sparseImage(xen.directory, "b.iso", 2 ** 25),
    ];
    const device = await attach(xen, { domain: GUEST as DomId, params: `aio:${first}`, readOnly: true, cdrom: true });
    const disk = await guest.disk(frontendPath(device));
    await using serve = new BackendProcess(xen, ["serve"]);
    await disk.connect();
    await disk.startLoad(READS);
    await assertProgress(disk, 200);
    const ejected = await xenblk(xen, "cd-eject", "7", "xvda");
    assertEquals(ejected, [0, "xenblk: xvda of guest-7 (domain 7) is empty\n"]);
    await assertProgress(disk, 200);
    const { errors, unanswered, protocolErrors, miscompares } = await disk.stopLoad();
    assert(errors > 0, "reads of an empty drive fail");
    assertEquals([unanswered, protocolErrors, miscompares], [0, 0, 0], serve.messages);

    const [status, why] = await xenblk(xen, "cd-insert", "7", "xvda", `${xen.directory}/none.iso`);
    assertEquals(status, 1);
    assertMatch(why, /none\.iso.*there is no such file/);
    const node = (name: string): Promise<string> => xen.run("xenstore-read", [`${backendPath(device)}/${name}`]);
    assertEquals((await node("sectors")).trim(), "0");
    assertEquals((await xenblk(xen, "cd-insert", "7", "xvda", "qcow2:" + first))[0], 1);
    assertEquals((await node("sectors")).trim(), "0");

    await serve.stop("SIGKILL");
    const [late, silent] = await xenblk(xen, "cd-insert", "7", "xvda", second, "--timeout=1");
    assertEquals(late, 4, silent);
    await using next = new BackendProcess(xen, ["serve"]);
    await next.says(/connected:/);
    const [inserted, said] = await xenblk(xen, "cd-insert", "7", "xvda", second);
    assertEquals(inserted, 0, said);
    assertMatch(said, /^xenblk: xvda of guest-7 \(domain 7\) has raw:.*b\.iso \(32\.0 MiB\)\n$/);
    assertEquals((await node("sectors")).trim(), "65536");
    assertClean(received(await disk.load({ ...READS, requests: 200 })), next.messages);
    await detach(xen, device);
    assertEquals(await next.stop(), 0, next.messages);
  },
);

nativeTest(
  "a disc of a storage daemon is swapped for another one: the guest's reads wait, and none fails",
  async () => {
    await using xen = await NativeXen.start();
    await xen.createDomain(GUEST);
    await using guest = new GuestProcess(xen, GUEST);
    using folder = new DiskFolder();
    const [first, second] = ["a", "b"].map((name) => `${folder.path}/${name}.qcow2`) as [string, string];
    for (const path of [first, second]) await qemuImg("create", "-q", "-f", "qcow2", path, "16M");
    const drive = { domain: GUEST as DomId, params: `qcow2:${first}`, readOnly: true, cdrom: true };
    const device = await attach(xen, drive);
    const disk = await guest.disk(frontendPath(device));
    await using serve = new BackendProcess(xen, ["serve"]);
    await disk.connect();
    await disk.startLoad(READS);
    await assertProgress(disk, 200);
    for (const [from, to] of [[first, second], [second, first]] as const) {
      const [status, why] = await xenblk(xen, "swap", "7", "xvda", `qcow2:${from}.none`);
      assertEquals(status, 1);
      assertMatch(why, /\.none.*[Nn]o such file/);
      await assertProgress(disk, 200);
      const swapped = await xenblk(xen, "swap", "7", "xvda", `qcow2:${to}`);
      assertEquals(swapped[0], 0, swapped[1]);
      await assertProgress(disk, 200);
      assertEquals(await nodeValue(xen, `${backendPath(device)}/params`), `qcow2:${to}`);
    }
    assertClean(received(await disk.stopLoad()), serve.messages);
    assert(!serve.messages.includes("wait for another storage daemon"), serve.messages);
    await detach(xen, device);
    assertEquals(await serve.stop(), 0, serve.messages);
    await untilNothingIsLeft(xen);
  },
);
