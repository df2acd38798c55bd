/**
 * Images in remote stores behind `xenblk serve`: a guest's verified load on ssh, iSCSI, NBD with TLS and HTTP, where the
 * secrets are seen, and what the guest gets when the server dies or stops answering.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import type { DiskFacts } from "../../../lib/guest/disk_facts.ts";
import type { DomId } from "../../../lib/hypervisor.ts";
import { frontendPath } from "../../../lib/xenbus/paths.ts";
import { nativeTest } from "../harness.ts";
import { attach, type BackendProcess, detach } from "./backend.ts";
import { qemuImg } from "../qemu_img.ts";
import { FormatStage } from "./format_stage.ts";
import { assertClean, assertProgress, GUEST, LOAD, received, UNTIL_STOPPED } from "./scenes.ts";
import {
  makeCertificates,
  missingServers,
  SshKeys,
  startHttp,
  startNbds,
  startSshd,
  startTgtd,
  trusting,
} from "./store_servers.ts";

const MISSING = missingServers();
const FULL = Deno.env.get("XENBLK_NATIVE") === "full";
const REQUESTS = FULL ? 20_000 : 500;
/** One at a time. */
const SLOW_REQUESTS = FULL ? 500 : 100;

function storeTest(name: string, body: () => Promise<void>): void {
  nativeTest(name, body, MISSING);
}

/** Asserts that a secret is in no command line or environment of a daemon, no log, and nowhere in xenstore. */
async function assertSecret(stage: FormatStage, backend: BackendProcess, secrets: readonly string[]): Promise<void> {
  const [pid] = await stage.daemons();
  assert(pid !== undefined, "a daemon runs");
  const places = new Map([
    ["the log", backend.messages],
    ["xenstore", await stage.xen.run("xenstore-ls", ["-f", "/"])],
  ]);
  for (const each of [pid, backend.pid]) {
    for (const file of ["cmdline", "environ"]) {
      places.set(`${file} of ${each}`, Deno.readTextFileSync(`/proc/${each}/${file}`));
    }
  }
  for (const { name } of Deno.readDirSync(`${stage.xen.directory}/journals/daemons`)) {
    const folder = `${stage.xen.directory}/journals/daemons/${name}`;
    for (const file of ["record.json", "stderr.log"]) {
      places.set(file, await Deno.readTextFile(`${folder}/${file}`).catch(() => ""));
    }
  }
  for (const [place, text] of places) {
    for (const secret of secrets) assert(!text.includes(secret), `a secret is in ${place}`);
  }
}

/** A guest with a disk in a store, and the store's server. */
async function open<T extends AsyncDisposable & { readonly uri: string }>(
  stack: AsyncDisposableStack,
  format: string,
  start: (image: string, folder: string) => Promise<T>,
): Promise<{ readonly stage: FormatStage; readonly server: T }> {
  let server: T | undefined;
  const stage = await FormatStage.open(format, [], {}, async (image) => {
    server = stack.use(await start(image, image.replace(/\/[^/]*$/, "")));
    return format === "raw" || server.uri.startsWith("nbd") ? server.uri : `${format}:${server.uri}`;
  });
  stack.use(stage);
  return { stage, server: server! };
}

/** Connects; fails with the reason if the image cannot be opened. */
async function connect({ disk }: FormatStage, backend: BackendProcess): Promise<DiskFacts> {
  const connecting = disk.connect();
  connecting.catch(() => {}); // it may be given up
  await backend.says(/connected:|Cannot /);
  assertMatch(backend.messages, /connected:/);
  return await connecting;
}

/** The guest's load on a disk that is written through, and its secrets. */
async function verifiedLoad(stage: FormatStage, backend: BackendProcess, secrets: readonly string[]): Promise<void> {
  const facts = await connect(stage, backend);
  assertEquals(facts.flush, false, "each write is durable");
  assertMatch(backend.messages, /cache writethrough/);
  assertClean(received(await stage.disk.load({ ...LOAD, requests: REQUESTS })), backend.messages);
  await assertSecret(stage, backend, secrets);
}

storeTest(`${REQUESTS} requests verify on a qcow2 image by ssh`, async () => {
  await using stack = new AsyncDisposableStack();
  let keys!: SshKeys;
  const { stage } = await open(stack, "qcow2", async (image, folder) => {
    keys = await SshKeys.make(folder);
    return await startSshd(image, keys);
  });
  const backend = stage.serveIn(keys.confinement(), "--allow-image", "ssh://**");
  await verifiedLoad(stage, backend, keys.secret);
  assertMatch(backend.messages, /warning: .*image qcow2:ssh:.* does not connect again/);
  await stage.finish(backend);
});

storeTest(`${REQUESTS} requests verify on a LUN of iSCSI, with a password`, async () => {
  await using stack = new AsyncDisposableStack();
  const password = crypto.randomUUID().replaceAll("-", "").slice(0, 16);
  const { stage } = await open(stack, "raw", (image, folder) => startTgtd(image, folder, password));
  const backend = stage.serve("--allow-image", "iscsi://**");
  await verifiedLoad(stage, backend, [password]);
  await stage.finish(backend);
});

storeTest(`${REQUESTS} requests verify on an NBD export with TLS and a client's certificate`, async () => {
  await using stack = new AsyncDisposableStack();
  let key: string[] = [];
  const { stage, server } = await open(stack, "qcow2", async (image, folder) => {
    const certificates = await makeCertificates(folder);
    key = Deno.readTextFileSync(`${certificates}/client-key.pem`).split("\n").filter((line) => line.length > 40);
    return await startNbds(image, "qcow2", certificates);
  });
  const backend = stage.serve("--allow-image", "nbds://**");
  await connect(stage, backend);
  assertClean(received(await stage.disk.load({ ...LOAD, requests: REQUESTS })), backend.messages);
  await assertSecret(stage, backend, key);
  // The server's death is seen to as without TLS.
  await stage.disk.startLoad(UNTIL_STOPPED);
  await assertProgress(stage.disk, 100);
  await server.restart();
  await backend.says(/served again after/);
  await assertProgress(stage.disk, 100);
  assertClean(received(await stage.disk.stopLoad()), backend.messages);
  await stage.finish(backend, () => server.kill());
});

for (const scheme of FULL ? ["http", "https"] : ["https"]) {
  storeTest(`${SLOW_REQUESTS} requests verify on a qcow2 overlay of a raw image by ${scheme}`, async () => {
    await using stack = new AsyncDisposableStack();
    const stage = stack.use(await FormatStage.open("qcow2"));
    const base = `${stage.folder}/base.raw`;
    await qemuImg("create", "-q", "-f", "raw", base, "64M");
    const certificates = scheme === "https" ? await makeCertificates(stage.folder) : undefined;
    const server = stack.use(startHttp(base, certificates));
    const rebase = (to: string): Promise<string> =>
      qemuImg("rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", to, stage.image);
    await rebase(server.uri);
    const trust = certificates === undefined ? [] : trusting(certificates);
    const backend = stage.serveIn(trust, "--allow-image", `${scheme}://**`);
    await connect(stage, backend);
    // One at a time: see docs/storage.md on QEMU's driver.
    const load = { ...LOAD, depth: 1, blockBytes: { min: 512, max: 16384 }, requests: SLOW_REQUESTS };
    assertClean(received(await stage.disk.load(load)), backend.messages);
    await stage.finish(backend, async () => void await rebase(base));
  });
}

storeTest("a server of iSCSI dies under load: the guest waits, and goes on with the next server", async () => {
  await using stack = new AsyncDisposableStack();
  const { stage, server } = await open(stack, "raw", (image, folder) => startTgtd(image, folder, "0123456789ab"));
  const backend = stage.serve("--allow-image", "iscsi://**");
  await connect(stage, backend);
  await stage.disk.startLoad(UNTIL_STOPPED);
  await assertProgress(stage.disk, 100);
  await server.restart();
  await assertProgress(stage.disk, 100);
  assertClean(received(await stage.disk.stopLoad()), backend.messages);
  await stage.finish(backend);
});

storeTest("serve ends in bounded time while an ssh server is stopped, and the next serve goes on", async () => {
  await using stack = new AsyncDisposableStack();
  let keys!: SshKeys;
  const { stage, server } = await open(stack, "qcow2", async (image, folder) => {
    keys = await SshKeys.make(folder);
    Deno.removeSync(`${keys.home}/.ssh/known_hosts`);
    return await startSshd(image, keys, `?host_key_check=${keys.fingerprint}`);
  });
  const serve = (): BackendProcess => stage.serveIn(keys.confinement(), "--allow-image", "ssh://**");
  let backend = serve();
  await connect(stage, backend);
  await stage.disk.startLoad(UNTIL_STOPPED);
  await assertProgress(stage.disk, 100);
  server.signal("SIGSTOP");
  const began = performance.now();
  await backend.stop("SIGTERM");
  assert(performance.now() - began < 30_000, backend.messages);
  assertMatch(backend.messages, /cannot complete \d+ requests? in flight of qcow2:ssh:/);
  server.signal("SIGCONT");
  backend = serve();
  await backend.says(/connected:/);
  await assertProgress(stage.disk, 100);
  assertClean(received(await stage.disk.stopLoad()), backend.messages);
  await stage.finish(backend);
});

storeTest("an ssh server dies: the guest gets errors until the disk is attached anew", async () => {
  await using stack = new AsyncDisposableStack();
  let keys!: SshKeys;
  const { stage, server } = await open(stack, "qcow2", async (image, folder) => {
    keys = await SshKeys.make(folder);
    return await startSshd(image, keys);
  });
  const backend = stage.serveIn(keys.confinement(), "--allow-image", "ssh://**");
  await connect(stage, backend);
  await stage.disk.startLoad(UNTIL_STOPPED);
  await assertProgress(stage.disk, 100);
  await server.restart();
  await assertProgress(stage.disk, 100);
  const { errors, unanswered } = await stage.disk.stopLoad();
  assert(errors > 0, backend.messages);
  assertEquals(unanswered, 0);
  await detach(stage.xen, stage.device);
  const params = `qcow2:${server.uri}`;
  const device = await attach(stage.xen, { domain: GUEST as DomId, params, readOnly: false });
  const disk = await stage.disk.guest.disk(frontendPath(device));
  await disk.connect();
  await disk.startLoad(UNTIL_STOPPED);
  await assertProgress(disk, 100);
  assertEquals((await disk.stopLoad()).errors, 0, backend.messages);
  await detach(stage.xen, device);
  assertEquals(await backend.stop(), 0, backend.messages);
});

storeTest("an ssh server with another key than known_hosts has is refused", async () => {
  await using stack = new AsyncDisposableStack();
  let keys!: SshKeys;
  const { stage } = await open(stack, "qcow2", async (image, folder) => {
    keys = await SshKeys.make(folder);
    const other = Deno.readTextFileSync(`${keys.home}/.ssh/id_ed25519.pub`).split(" ").slice(0, 2).join(" ");
    Deno.writeTextFileSync(`${keys.home}/.ssh/known_hosts`, `[127.0.0.1]:${keys.port} ${other}\n`);
    return await startSshd(image, keys);
  });
  const backend = stage.serveIn(keys.confinement(), "--allow-image", "ssh://**");
  await backend.says(/Cannot open image qcow2:ssh:.*host key .* does not match the one in known_hosts/);
});

storeTest("an NBD server with a certificate of another authority is refused", async () => {
  await using stack = new AsyncDisposableStack();
  const { stage } = await open(stack, "qcow2", async (image, folder) => {
    const certificates = await makeCertificates(folder);
    const server = await startNbds(image, "qcow2", certificates);
    // The client's from here on.
    Deno.renameSync(certificates, `${folder}/server`);
    await makeCertificates(folder);
    return server;
  });
  const backend = stage.serve("--allow-image", "nbds://**");
  await backend.says(/Cannot open .*nbds:.*certificate/);
});
