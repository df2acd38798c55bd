/**
 * The hotplug script as libxl runs it, against a real xenstored: it waits for the backend's answer, fails with the reason
 * in the node that libxl shows, and never creates a node of a disk that is gone.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import type { DomId } from "../../lib/hypervisor.ts";
import { ROOT } from "../house/source.ts";
import { nativeTest, NativeXen } from "../native/harness.ts";
import { attach, BackendProcess, nodeValue, sparseImage } from "../native/serve/backend.ts";

const SCRIPT = `${ROOT}contrib/block-xenblk`;
const GUEST = 5 as DomId;
/** As in libxl's environment: relative to the domain's home. */
const XENBUS_PATH = `backend/vbd3/${GUEST}/51728`;
const BACKEND = `/local/domain/0/${XENBUS_PATH}`;

interface ScriptOutcome {
  readonly status: number;
  readonly stderr: string;
}

/** A host with the nodes of one disk in InitWait. */
class Host implements AsyncDisposable {
  private constructor(readonly xen: NativeXen) {}

  static async start(): Promise<Host> {
    const host = new Host(await NativeXen.start());
    await host.write({ state: "2", online: "1", params: "aio:/srv/disk.img" });
    return host;
  }

  /** Writes nodes of the backend's directory. */
  async write(nodes: Readonly<Record<string, string>>): Promise<void> {
    await this.xen.run(
      "xenstore-write",
      Object.entries(nodes).flatMap(([name, value]) => [`${BACKEND}/${name}`, value]),
    );
  }

  async read(name: string): Promise<string | undefined> {
    try {
      return (await this.xen.run("xenstore-read", [`${BACKEND}/${name}`])).trimEnd();
    } catch {
      return undefined;
    }
  }

  /** Starts the script as libxl does. */
  run(args: readonly string[] = ["add"], env: Readonly<Record<string, string>> = {}): Promise<ScriptOutcome> {
    return run(args, { ...this.xen.env(), XENBUS_PATH, XENBUS_TYPE: "vbd3", XENBUS_BASE_PATH: "backend", ...env });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.xen[Symbol.asyncDispose]();
  }
}

async function run(args: readonly string[], env: Readonly<Record<string, string>>): Promise<ScriptOutcome> {
  const command = new Deno.Command(SCRIPT, { args: [...args], env, stdin: "null", stdout: "null" });
  const { code, stderr } = await command.output();
  return { status: code, stderr: new TextDecoder().decode(stderr) };
}

nativeTest("add succeeds once the backend says that it is connected, and not before", async () => {
  await using host = await Host.start();
  let ended = false;
  const running = host.run().finally(() => ended = true);
  await new Promise((resolve) => setTimeout(resolve, 300));
  assertEquals(ended, false);
  await host.write({ "hotplug-status": "connected" });
  assertEquals(await running, { status: 0, stderr: "" });
});

nativeTest("add fails with the backend's reason, which stays where libxl reads it", async () => {
  await using host = await Host.start();
  const reason = "Cannot open image /srv/disk.img: there is no such file";
  await host.write({ "error": reason, "hotplug-error": reason, "hotplug-status": "error" });
  const outcome = await host.run();
  assertEquals(outcome, { status: 1, stderr: `block-xenblk: ${XENBUS_PATH}: ${reason}\n` });
  assertEquals([await host.read("hotplug-error"), await host.read("hotplug-status")], [reason, "error"]);
});

nativeTest("add passes the error node on if the backend wrote no hotplug-error", async () => {
  await using host = await Host.start();
  await host.write({ "error": "the image is broken", "hotplug-status": "error" });
  assertEquals((await host.run()).status, 1);
  assertEquals(await host.read("hotplug-error"), "the image is broken");
});

nativeTest("add of a disk that waits for its image's lock succeeds with a notice", async () => {
  await using host = await Host.start();
  await host.write({ error: "waits for the lock of image /srv/disk.img: process 12 (qemu) has it" });
  const { status, stderr } = await host.run(["add"], { XENBLK_HOTPLUG_WAIT_SECONDS: "0" });
  assertEquals(status, 0);
  assertMatch(stderr, /the disk will appear in the guest later: waits for the lock of image .*: process 12 \(qemu\)/);
  assertEquals(await host.read("hotplug-error"), undefined);
});

nativeTest("add without an answer fails with the command to check, before libxl's own limit", async () => {
  await using host = await Host.start();
  const { status, stderr } = await host.run(["add"], { XENBLK_HOTPLUG_SECONDS: "1" });
  assertEquals(status, 1);
  const reason = "xenblk has not answered for 1 s: check that `xenblk serve --kind vbd3` is running, and see its log";
  assertEquals(stderr, `block-xenblk: ${XENBUS_PATH}: ${reason}\n`);
  assertEquals([await host.read("hotplug-error"), await host.read("hotplug-status")], [reason, "error"]);
  const limit = /answer_seconds=\$\{[A-Z_]+:-(\d+)\}/.exec(Deno.readTextFileSync(SCRIPT))![1];
  assert(Number(limit) < 40, "libxl kills the script after 40 s");
});

nativeTest("add of a disk that is removed meanwhile fails, and creates no node", async () => {
  await using host = await Host.start();
  const running = host.run();
  await host.xen.run("xenstore-rm", [BACKEND]);
  assertMatch((await running).stderr, /the disk was removed while the script waited for it/);
  assertEquals((await host.run()).status, 1);
  assertEquals(await host.read(""), undefined);
});

nativeTest("remove does nothing, and anything else is refused", async () => {
  await using host = await Host.start();
  const before = await host.xen.run("xenstore-ls", ["-f"]);
  assertEquals(await host.run(["remove"]), { status: 0, stderr: "" });
  assertMatch((await host.run(["online"])).stderr, /cannot do "online": libxl calls this script with add or remove/);
  assertMatch((await run(["add"], host.xen.env())).stderr, /XENBUS_PATH is not set: this script is for libxl to run/);
  assertEquals(await host.xen.run("xenstore-ls", ["-f"]), before);
});

nativeTest("with serve, add succeeds for an image and fails for a missing one with serve's reason", async () => {
  await using host = await Host.start();
  const { xen } = host;
  await xen.createDomain(GUEST);
  await using serve = new BackendProcess(xen, ["serve", "--kind", "vbd3"]);
  await serve.says(/serving all of kind vbd3/);
  const nodes = { domain: GUEST, vdev: "xvdc" };
  await attach(xen, { ...nodes, params: `aio:${sparseImage(xen.directory, "disk.img", 2 ** 20)}` });
  await attach(xen, { ...nodes, vdev: "xvdd", params: `aio:${xen.directory}/none.img` });
  const [good, bad] = [51744, 51760].map((vdev) => `backend/vbd3/${GUEST}/${vdev}`);
  // libxl waits for this state before it runs the script.
  await nodeValue(xen, `/local/domain/0/${good}/state`, "2");
  assertEquals(await host.run(["add"], { XENBUS_PATH: good! }), { status: 0, stderr: "" });
  const { status, stderr } = await host.run(["add"], { XENBUS_PATH: bad! });
  assertEquals(status, 1);
  assertMatch(stderr, /Cannot open image .*none\.img: there is no such file/);
});
