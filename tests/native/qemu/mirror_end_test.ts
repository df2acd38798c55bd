/**
 * The end of a mirror that does not become the disk, while the guest has many writes in flight: QEMU 7.2 crashes if it ends
 * with them.
 */

import { assertEquals, assertMatch } from "@std/assert";
import { isActive, type JobReport } from "../../../lib/jobs/job.ts";
import { Jobs } from "../../../lib/jobs/jobs.ts";
import { jobsOf, stateOf } from "../../../lib/jobs/daemon_jobs.ts";
import { type MirrorDisks, mirrorKind, orderMirror } from "../../../lib/jobs/mirror.ts";
import { type EngineDisk, EngineRig, SMALL_TAGS } from "./engine_rig.ts";
import { NbdServer, QEMU_NBD } from "../serve/nbd_server.ts";
import { command, daemonTest, until } from "./rig.ts";

const DEVICE = "vbd3/5/1";
const FULL = Deno.env.get("XENBLK_NATIVE") === "full";
/** QEMU crashed in about one of eight, when the guest did not wait. */
const CANCELLED = FULL ? 30 : 8;

/** Keeps many writes in flight, and flushes now and then. */
class Load implements AsyncDisposable {
  readonly #disk: EngineDisk;
  readonly errors: number[] = [];
  answered = 0;
  readonly #running: Promise<void>;
  #ends = false;

  constructor(disk: EngineDisk) {
    this.#disk = disk;
    this.#running = this.#run();
    this.#running.catch(() => {}); // told at the end
  }

  async #run(): Promise<void> {
    const idle = Array.from({ length: SMALL_TAGS }, (_, tag) => tag);
    for (let count = 0; !this.#ends || this.#disk.inFlight > 0;) {
      for (let tag = this.#ends ? undefined : idle.pop(); tag !== undefined; tag = idle.pop()) {
        if (++count % 50 === 0) this.#disk.startFlush(tag);
        else this.#disk.startWrite(tag, (count * 7) % 1900 << 15, 4096 << (count % 4));
      }
      await this.#disk.reap((tag, result) => {
        this.answered++;
        if (result !== 0) this.errors.push(result);
        idle.push(tag);
      });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ends = true;
    await this.#running;
  }
}

function noExchange(): Promise<never> {
  return Promise.reject(new Error("no mirror becomes the disk here"));
}

/** A disk under load, and its mirrors. */
class Mirrors implements AsyncDisposable {
  readonly #owned = new AsyncDisposableStack();

  private constructor(readonly rig: EngineRig, readonly disk: EngineDisk, readonly jobs: Jobs, readonly load: Load) {}

  static async open(exchange: MirrorDisks["exchange"] = noExchange): Promise<Mirrors> {
    await using owned = new AsyncDisposableStack();
    const rig = owned.use(new EngineRig());
    const image = `${rig.folder}/a.qcow2`;
    await command("qemu-img", "create", "-q", "-f", "qcow2", image, "64M");
    const disk = owned.use(await rig.open(`qcow2:${image}`));
    const line = (text: string): void => void rig.warnings.push(text);
    const kind = mirrorKind({ exchange, paramsOf: () => Promise.resolve(`qcow2:${image}`) });
    const jobs = owned.use(
      await Jobs.open({
        directory: `${rig.folder}/jobs`,
        disks: {
          daemonOf: () => disk.disk.daemon,
          isForeign: () => false,
          isWithoutDaemon: () => false,
          isExchanging: () => false,
        },
        kinds: { mirror: () => Promise.resolve(kind) },
        logger: { debug: () => {}, info: () => {}, warning: line, error: line },
      }),
    );
    const mirrors = new Mirrors(rig, disk, jobs, owned.use(new Load(disk)));
    mirrors.#owned.use(owned.move());
    return mirrors;
  }

  /** Starts one to a new image, or to what a server has. */
  async start(target: string, bytesPerSecond: number): Promise<JobReport> {
    const isFile = target.startsWith("/");
    if (isFile) await command("qemu-img", "create", "-q", "-f", "qcow2", target, "64M");
    const daemon = this.disk.disk.daemon!;
    const params = isFile ? `qcow2:${target}` : target;
    const order = { rings: 1, device: DEVICE, daemon, params, timeoutMs: 10_000, allowImages: ["nbd+unix:**"] };
    return await this.jobs.start(await orderMirror({ ...order, checkUnused: () => Promise.resolve(), bytesPerSecond }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#owned.disposeAsync();
  }
}

daemonTest("mirrors are cancelled while many writes are in flight: the daemon lives", async () => {
  await using mirrors = await Mirrors.open();
  const { rig, jobs, load } = mirrors;
  const pid = rig.daemon;
  for (let round = 0; round < CANCELLED; round++) {
    const target = `${rig.folder}/${round}.qcow2`;
    const { id } = await mirrors.start(target, 2 ** 20);
    assertEquals((await jobs.cancel(id)).state, "cancelled");
    await command("qemu-img", "info", target); // the daemon has let go of it
    Deno.removeSync(target);
  }
  assertEquals([rig.daemon, load.errors, rig.warnings], [pid, [], []]);
});

daemonTest("a mirror fails whose target has no room: the guest and the daemon go on", async () => {
  const mount = Deno.makeTempDirSync({ prefix: "xenblk-full-" });
  await command("mount", "-t", "tmpfs", "-o", "size=6m", "xenblk-test", mount);
  try {
    await using mirrors = await Mirrors.open();
    const { rig, jobs, load } = mirrors;
    const pid = rig.daemon;
    for (let round = 0; round < 3; round++) {
      // Its room is free again: nothing has it open, nor has it in the daemon's root.
      const { id } = await mirrors.start(`${mount}/${round}.qcow2`, 2 ** 40);
      const { state, error } = await jobs.ended(id).catch(() => jobs.reports().find((job) => !isActive(job))!);
      assertEquals(state, "failed");
      assertMatch(error!, /No space left/);
      Deno.removeSync(`${mount}/${round}.qcow2`);
    }
    assertEquals([rig.daemon, load.errors], [pid, []]);
  } finally {
    await command("umount", mount);
    Deno.removeSync(mount);
  }
});

daemonTest("a mirror that is cancelled while the disk is switched over was cancelled, and has not failed", async () => {
  const switching = Promise.withResolvers<void>();
  const ended = Promise.withResolvers<void>();
  await using mirrors = await Mirrors.open(async (_device, { finish }) => {
    switching.resolve();
    await ended.promise;
    await finish(new AbortController().signal);
  });
  const { rig, jobs, disk: { disk } } = mirrors;
  const { id } = await mirrors.start(`${rig.folder}/b.qcow2`, 2 ** 40);
  await switching.promise;
  const cancelling = jobs.cancel(id);
  await until(
    "its daemon has ended it",
    async () => (await disk.daemon!.run(jobsOf)).every((job) => stateOf(job) === "over"),
  );
  ended.resolve();
  const { state, error } = await cancelling;
  assertEquals([state, error], ["cancelled", "Operation canceled"]);
});

// Longer than an export may take to end.
if (FULL) {
  daemonTest(
    "a mirror is cancelled whose target does not answer: the guest waits for it, and goes on once it is gone",
    async () => {
      await using mirrors = await Mirrors.open();
      const { rig, jobs, load } = mirrors;
      const [image, socket] = [`${rig.folder}/remote.qcow2`, `${rig.folder}/nbd`];
      await command("qemu-img", "create", "-q", "-f", "qcow2", image, "64M");
      await using server = new NbdServer(QEMU_NBD, image, socket);
      await server.start();
      const { id } = await mirrors.start(`nbd+unix:///disk?socket=${socket}`, 2 ** 20);
      server.signal("SIGSTOP");
      const begun = performance.now();
      const cancelled = jobs.cancel(id);
      cancelled.catch(() => {});
      await until(
        "the cancelling has waited for the guest's writes",
        () => performance.now() - begun > 6_000 || undefined,
      );
      await server.end();
      assertEquals((await cancelled).state, "cancelled");
      const { answered } = load;
      await until("the guest goes on", () => load.answered > answered + 100 || undefined);
      assertEquals(load.errors, []);
    },
  );
}
