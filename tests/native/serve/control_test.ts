/**
 * The control socket of a real `serve`, in its own process, with a guest that responds: a disk handed over by `attach
 * --background`, looked at, resized and detached; and what is left of a process that was killed.
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { readLines } from "../../../lib/control/lines.ts";
import type { DomId } from "../../../lib/hypervisor.ts";
import { frontendErrorPath, frontendPath } from "../../../lib/xenbus/paths.ts";
import { formatVdev } from "../../../lib/xenbus/vdev.ts";
import { nativeTest, NativeXen } from "../harness.ts";
import { attach, BackendProcess, detach, sparseImage } from "./backend.ts";
import { GuestProcess } from "./guest.ts";
import { assertClean, GUEST, LOAD, newDisk, received } from "./scenes.ts";

const CLI = new URL("../../../cli.ts", import.meta.url).pathname;
const ADDRESS = { frontendDomain: GUEST as DomId, vdev: 51728 };

/** A verb to its end. */
async function xenblk(xen: NativeXen, ...args: string[]): Promise<{ status: number; stdout: string; stderr: string }> {
  const command = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", CLI, ...args],
    env: { NO_COLOR: "1", ...xen.env() },
    stdin: "null",
  });
  const { code, stdout, stderr } = await command.output();
  const decoder = new TextDecoder();
  return { status: code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

/** Of a disk that began with a weight of 250. */
async function limitsAndWeight(xen: NativeXen): Promise<void> {
  assertMatch(
    (await xenblk(xen, "limit", "7", "xvdb", "--iops=500")).stdout,
    /^iops +500\nbytes per second +1\.0 GiB\n$/,
  );
  assertMatch((await xenblk(xen, "show", "7", "xvdb")).stdout, /^iops limit +500\nbytes limit +1\.0 GiB$/m);
  assertMatch((await xenblk(xen, "show", "7", "xvdb")).stdout, /^weight +250$/m);
  assertEquals((await xenblk(xen, "weight", "7", "xvdb", "40")).stdout, "weight  40\n");
  assertEquals(JSON.parse((await xenblk(xen, "list", "--json")).stdout)[0].live.weight, 40);
  const { limits } = JSON.parse((await xenblk(xen, "list", "--json")).stdout)[0].live;
  assertEquals(limits, {
    iops: 500,
    iopsBurst: 0,
    bytesPerSecond: 2 ** 30,
    bytesBurst: 0,
    readIops: 0,
    writeIops: 0,
    readBytesPerSecond: 0,
    writeBytesPerSecond: 0,
  });
}

nativeTest("a disk is handed to a running serve, looked at, resized and detached by its control socket", async () => {
  await using xen = await NativeXen.start();
  await xen.createDomain(GUEST);
  const image = sparseImage(xen.directory, "disk.img", 2 ** 26);
  const attaching = ["attach", String(GUEST), image, "xvdb", "--background"];
  const early = await xenblk(xen, ...attaching);
  assertEquals([early.status, early.stdout], [1, ""]);
  assertMatch(early.stderr, /no `xenblk serve` of kind vbd3 runs here; start `xenblk serve --kind vbd3` first/);

  await using guest = new GuestProcess(xen, GUEST);
  await using serve = new BackendProcess(xen, ["serve", "--grants", "copy"]);
  // It has not started yet: it is waited for.
  const absent = await xenblk(xen, "attach", String(GUEST), `${image}.none`, "-b");
  assertEquals(absent.status, 1);
  assertMatch(absent.stderr, /^xenblk: Cannot open image .*disk\.img\.none: there is no such file; create it/);
  const refused = await xenblk(xen, ...attaching, "--workers=7");
  assertEquals(refused.status, 2);
  assertMatch(refused.stderr, /Cannot use --workers with --background: it belongs to the process that serves/);

  const qcow2 = `${xen.directory}/web.qcow2`;
  Deno.writeFileSync(qcow2, Uint8Array.of(0x51, 0x46, 0x49, 0xfb, ...new Uint8Array(4092)));
  const raw = await xenblk(xen, "attach", String(GUEST), qcow2, "xvdc", "-b", "--timeout=1");
  assertMatch(raw.stderr, /warning: image .*web\.qcow2: it begins like a qcow2 image, but is served as it is \(raw\)/);

  const attached = xenblk(xen, ...attaching, "--grants=map", "--bytes-per-second=1G", "--weight=250");
  const disk = await guest.disk(frontendPath(ADDRESS));
  await serve.says(/offering .*disk\.img/);
  await disk.connect();
  const { status, stdout, stderr } = await attached;
  assertEquals([status, stdout], [0, "xvdb\n"], stderr);
  assertMatch(stderr, new RegExp(`is xvdb of guest-7 \\(domain 7\\), served by process ${serve.pid}`));
  assertMatch(serve.messages, /connected: .*grants map/);
  assertClean(received(await disk.load({ ...LOAD, requests: 200 })), serve.messages);

  const [shown] = JSON.parse((await xenblk(xen, "list", "--json")).stdout);
  assertEquals([shown.live.pid, shown.live.verb, shown.live.connected], [serve.pid, "serve", true]);
  assertMatch((await xenblk(xen, "show", "7", "xvdb")).stdout, new RegExp(`served by +process ${serve.pid}`));
  assertMatch((await xenblk(xen, "resize", "7", "xvdb", "128M")).stderr, /has grown from 64\.0 MiB to 128\.0 MiB/);
  await limitsAndWeight(xen);
  assertMatch((await xenblk(xen, "log-level", "debug")).stdout, new RegExp(`${serve.pid} +serve +vbd3 +debug`));

  // A guest that uses the disk keeps it: its driver says so.
  await xen.run("xenstore-write", [frontendErrorPath(ADDRESS), "16 Device in use; refusing to close"]);
  Deno.kill(guest.pid, "SIGSTOP");
  const late = await xenblk(xen, "detach", "7", "xvdb", "--timeout=1");
  assertEquals(late.status, 4, late.stderr);
  assertMatch(
    late.stderr,
    /of guest-7 \(domain 7\): the guest still uses the disk .*says "Device in use; refusing to close"; unmount it in the guest/,
  );
  Deno.kill(guest.pid, "SIGCONT");
  const detached = await xenblk(xen, "detach", "7", "xvdb");
  assertEquals([detached.status, detached.stderr], [0, "xenblk: xvdb of guest-7 (domain 7) is detached\n"]);
  assertEquals(await serve.stop(), 0, serve.messages);
});

nativeTest("the death of serve during an attach leaves the image that it may have given to the guest", async () => {
  await using xen = await NativeXen.start();
  await xen.createDomain(GUEST);
  await using serve = new BackendProcess(xen, ["serve"]);
  await serve.says(/serving all/);
  const image = `${xen.directory}/new.img`;
  const attaching = xenblk(xen, "attach", String(GUEST), image, "xvdb", "--background", "--create=1M");
  await serve.says(/offering/);
  await serve.stop("SIGKILL");
  const { status, stderr } = await attaching;
  assertEquals(status, 1, stderr);
  assertMatch(stderr, /new\.img is kept: the serving process may have given it to the guest\n/);
  assertMatch(stderr, /Cannot complete .*: the process has closed the connection; see `xenblk list`/);
  assertEquals((await Deno.stat(image)).size, 2 ** 20);
});

nativeTest("attach --background that is interrupted takes the disk back, and says where to look", async () => {
  await using xen = await NativeXen.start();
  await xen.createDomain(GUEST);
  const image = sparseImage(xen.directory, "disk.img", 2 ** 20);
  {
    await Deno.mkdir(`${xen.directory}/journals/control`, { recursive: true, mode: 0o700 });
    using nobody = Deno.listen({ transport: "unix", path: `${xen.directory}/journals/control/1.sock` });
    await using early = new BackendProcess(xen, ["attach", String(GUEST), image, "--background"]);
    (await nobody.accept()).close();
    assertEquals(await early.stop("SIGINT"), 1);
    assertMatch(early.messages, /Cannot attach in the background: ended by SIGINT\n$/);
  }
  await using serve = new BackendProcess(xen, ["serve"]);
  await serve.says(/serving all/);
  await using attaching = new BackendProcess(xen, ["attach", String(GUEST), image, "xvdb", "--background"]);
  await serve.says(/offering/);
  assertEquals(await attaching.stop("SIGINT"), 1);
  assertMatch(attaching.messages, /Cannot wait until the guest has .*disk\.img: ended by SIGINT; see `xenblk list`/);
  await serve.says(/removed/);
  assertEquals(JSON.parse((await xenblk(xen, "list", "--json")).stdout), []);
});

nativeTest("a killed serve leaves a socket that nobody takes for a process, and the next one removes it", async () => {
  await using xen = await NativeXen.start();
  const sockets = `${xen.directory}/journals/control`;
  await using killed = new BackendProcess(xen, ["serve"]);
  await killed.says(/serving all/);
  assertMatch((await xenblk(xen, "log-level")).stdout, new RegExp(`${killed.pid} +serve`));
  await xen.createDomain(GUEST);
  const image = sparseImage(xen.directory, "disk.img", 2 ** 20);
  const device = await attach(xen, { domain: GUEST as DomId, params: `aio:${image}` });
  await killed.says(/offering/);
  const shown = async (): Promise<string> =>
    (await xenblk(xen, "list")).stdout + (await xenblk(xen, "show", String(GUEST), formatVdev(device.vdev))).stdout;
  assert(!(await shown()).includes("hint"), "a process serves it");
  await killed.stop("SIGKILL");
  assertEquals((await shown()).match(/hint:? +no process of xenblk answers for it; if none runs/g)?.length, 2);
  const socket = `${sockets}/${killed.pid}.sock`;
  assert((await Deno.lstat(socket)).isSocket);
  assertEquals((await xenblk(xen, "log-level")).status, 3);
  await using serve = new BackendProcess(xen, ["serve"]);
  await serve.says(/serving all/);
  assertMatch((await xenblk(xen, "log-level")).stdout, new RegExp(`${serve.pid} +serve`));
  assertEquals([...Deno.readDirSync(sockets)].map(({ name }) => name), [`${serve.pid}.sock`]);
  await detach(xen, device);
  assertEquals(await serve.stop(), 0, serve.messages);
  await assertRejects(() => Deno.lstat(sockets), Deno.errors.NotFound);
});

nativeTest("a stopped serve is named by those who wait for it, instead of a start of another one", async () => {
  await using xen = await NativeXen.start();
  await xen.createDomain(GUEST);
  await using guest = new GuestProcess(xen, GUEST);
  await using serve = new BackendProcess(xen, ["serve"]);
  const { disk, image } = await newDisk(xen, guest, "disk.img", { sizeBytes: 2 ** 20 });
  await disk.connect();
  Deno.kill(serve.pid, "SIGSTOP");
  const silent = `process ${serve.pid} does not answer on its control socket`;
  const calls: readonly (readonly [status: number, ...args: string[]])[] = [
    [0, "list"],
    [0, "show", "7", "xvda"],
    [0, "top", "-n", "1", "-d", "0.1"],
    [1, "attach", "7", image, "xvdb", "--background"],
    [1, "log-level"],
    [1, "limit", "7", "xvda"],
    [1, "weight", "7", "xvda"],
    [4, "resize", "7", "xvda", "--timeout=1"],
    [4, "detach", "7", "xvda", "--timeout=1"],
  ];
  // The last one changes what the others see.
  const outcomes = await Promise.all(calls.slice(0, -1).map(([, ...args]) => xenblk(xen, ...args)));
  outcomes.push(await xenblk(xen, ...calls.at(-1)!.slice(1).map(String)));
  for (const [index, { status, stdout, stderr }] of outcomes.entries()) {
    const [expected, verb] = calls[index]!;
    assertEquals(status, expected, `${verb}: ${stderr}`);
    assertMatch(stderr, new RegExp(`${silent}[:;] see whether it is stopped`), verb);
    assert(!(stdout + stderr).includes("start `"), stdout + stderr);
  }
  Deno.kill(serve.pid, "SIGCONT");
  assertEquals(await serve.stop(), 0, serve.messages);
});

nativeTest("a serve that cannot make its socket serves all the same, and says what is missing", async () => {
  await using xen = await NativeXen.start();
  await Deno.mkdir(`${xen.directory}/journals`);
  await Deno.writeTextFile(`${xen.directory}/journals/control`, "no directory");
  await using serve = new BackendProcess(xen, ["serve"]);
  await serve.says(/warning: no control socket: File exists .*served without one; check that .*\/control can be/);
  await xen.createDomain(GUEST);
  const image = sparseImage(xen.directory, "disk.img", 2 ** 20);
  const device = await attach(xen, { domain: GUEST as DomId, params: `aio:${image}` });
  await serve.says(/offering/);
  await detach(xen, device);
  assertEquals(await serve.stop(), 0, serve.messages);
});

nativeTest("serve --json and events print what happens to a disk, the same way", async () => {
  await using xen = await NativeXen.start();
  await xen.createDomain(GUEST);
  const start = (...args: string[]): Deno.ChildProcess =>
    new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", CLI, ...args],
      env: { NO_COLOR: "1", ...xen.env() },
      stdin: "null",
      stdout: "piped",
      stderr: "null",
    }).spawn();
  const serve = start("serve", "--json");
  const follower = start("events", "--json");
  const forPeople = start("events");
  const text = forPeople.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let shown = "";
  const shows = async (line: string): Promise<void> => {
    while (!shown.includes(line)) {
      const { value, done } = await text.read();
      if (done) throw new Error(`events did not show "${line}": ${shown}`);
      shown += value;
    }
  };
  const [served, followed] = [new Events(serve.stdout), new Events(follower.stdout)];
  const image = sparseImage(xen.directory, "disk.img", 2 ** 20);
  const device = await attach(xen, { domain: GUEST as DomId, params: `aio:${image}` });
  const label = `vbd3/${GUEST}/${device.vdev}`;
  for (const events of [served, followed]) {
    const added = await events.next("added");
    assertEquals([added["device"], (added["report"] as { guest?: string }).guest], [label, `guest-${GUEST}`]);
  }
  const named = `${formatVdev(device.vdev)} of guest-${GUEST} (domain ${GUEST})`;
  await shows(` ${serve.pid} ${named} added`);
  await detach(xen, device);
  await shows(` ${serve.pid} ${named} removed`);
  for (const events of [served, followed]) assertEquals((await events.next("removed"))["device"], label);
  serve.kill("SIGTERM");
  assertEquals((await serve.status).code, 0);
  for (const events of [served, followed]) assertEquals((await events.next("end"))["reason"], "the process ends");
  for (const ending of [follower, forPeople]) ending.kill("SIGTERM");
  assertEquals((await follower.status).code, 0);
  while (!(await text.read()).done); // to its end
  assertEquals((await forPeople.status).code, 0);
  for (const events of [served, followed]) await events.drain();
});

/** The lines of a process. */
class Events {
  readonly #lines: AsyncIterator<string>;

  constructor(stdout: ReadableStream<Uint8Array>) {
    const reader = stdout.getReader();
    let rest = new Uint8Array();
    const read = async (buffer: Uint8Array): Promise<number | null> => {
      if (rest.length === 0) rest = new Uint8Array((await reader.read()).value ?? []);
      const taken = rest.subarray(0, buffer.length);
      buffer.set(taken);
      rest = rest.subarray(taken.length);
      return taken.length === 0 ? null : taken.length;
    };
    this.#lines = readLines({ read }, 1e6);
  }

  /** The next event of that name; others are passed over. */
  async next(name: string): Promise<Record<string, unknown>> {
    for (;;) {
      const { value, done } = await this.#lines.next();
      if (done) throw new Error(`there was no event ${name}`);
      const event = JSON.parse(value);
      if (event.event === name) return event;
    }
  }

  /** Reads to the end. */
  async drain(): Promise<void> {
    while (!(await this.#lines.next()).done);
  }
}
