/**
 * `xenblk top`, `show` and `list` over a real `serve` with a guest that loads its disk: figures that agree with each
 * other, also after the serving process was replaced; and the terminal of `top`, which is as before at the end.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { nativeTest, NativeXen } from "../harness.ts";
import { BackendProcess } from "./backend.ts";
import { GuestProcess } from "./guest.ts";
import { GUEST, newDisk, received, UNTIL_STOPPED } from "./scenes.ts";

const CLI = new URL("../../../cli.ts", import.meta.url).pathname;
const TOP = [Deno.execPath(), "run", "-A", "--no-check", CLI, "top"];

// deno-lint-ignore no-control-regex
const ESCAPES = /\x1b\[[?\d]*[A-Za-z]/g;

/** A terminal of 80 columns in which a shell runs a program, and prints the terminal's settings before and after. */
class Terminal implements AsyncDisposable {
  shown = "";
  readonly #child: Deno.ChildProcess;
  readonly #read: Promise<void>;
  readonly #keys: WritableStreamDefaultWriter<Uint8Array>;

  constructor(xen: NativeXen, ...args: string[]) {
    const program = [...TOP, ...args].join(" ");
    const script = `stty cols 80 rows 24; echo "<$(stty -g)>"; sh -c 'echo pid=$$; exec ${program}'; ` +
      'echo "status=$?"; echo "<$(stty -g)>"';
    this.#child = new Deno.Command("script", {
      args: ["-qfc", script, "/dev/null"],
      env: { ...xen.env(), TERM: "xterm", SHELL: "/bin/sh" },
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    this.#keys = this.#child.stdin.getWriter();
    this.#read = this.#collect();
  }

  async press(keys: string): Promise<void> {
    await this.#keys.write(new TextEncoder().encode(keys));
  }

  async shows(what: RegExp): Promise<void> {
    for (const end = performance.now() + 30_000; !what.test(this.shown);) {
      assert(performance.now() < end, `the terminal does not show ${what}: ${JSON.stringify(this.shown.slice(-1000))}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  get pid(): number {
    return Number(/pid=(\d+)/.exec(this.shown)![1]);
  }

  /** The exit status of the program, once the terminal is as it was before. */
  async end(): Promise<number> {
    await this.shows(/status=\d+\r\n<.*>\r\n/);
    const [before, after] = [...this.shown.matchAll(/<([0-9a-f:]+)>/g)].map(([, settings]) => settings);
    assertEquals(after, before, "the terminal's settings");
    assert(this.shown.includes("\x1b[?25h\x1b[?1049l"), "cursor and screen are back");
    return Number(/status=(\d+)/.exec(this.shown)![1]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch { /* it has ended */ }
    await this.#keys.close().catch(() => {});
    await Promise.all([this.#child.status, this.#read]);
  }

  async #collect(): Promise<void> {
    for await (const text of this.#child.stdout.pipeThrough(new TextDecoderStream())) this.shown += text;
  }
}

nativeTest("top, show and list have the figures of a loaded disk; top leaves its terminal as it was", async () => {
  await using xen = await NativeXen.start();
  await xen.createDomain(GUEST);
  const xenblk = (...args: string[]): Promise<string> =>
    xen.run(Deno.execPath(), ["run", "-A", "--no-check", CLI, ...args]);
  await using guest = new GuestProcess(xen, GUEST);
  await using serve = new BackendProcess(xen, ["serve"]);
  const { disk } = await newDisk(xen, guest, "disk.img");
  await disk.connect();
  await disk.startLoad(UNTIL_STOPPED);

  const sample = JSON.parse(await xenblk("top", "--json", "--batch", "-n", "1", "-d", "0.5"));
  const [row] = sample.disks;
  assertEquals([row.disk_device, row.vdev, row.pid, sample.disks.length], ["guest-7/xvda", "xvda", serve.pid, 1]);
  assert(row["r/s"] > 0 && row["wkB/s"] > 0 && row.r_await > 0 && row.util > 0 && row.util <= 100, JSON.stringify(row));
  assert(row.r_p50 <= row.r_p99 && row["aqu-sz"] > 0, JSON.stringify(row));

  await using terminal = new Terminal(xen, "-d", "0.2");
  await terminal.shows(/%utilv[^]*guest-7 +xvda +[\d.]+/);
  await terminal.press("g");
  await terminal.press("\x1b[D");
  await terminal.shows(/aqu-szv[^]*guest-7 +[\d.]+ /);
  const lines = terminal.shown.slice(terminal.shown.indexOf("\x1b[H")).split(/[\r\n]+/);
  assertEquals(lines.map((line) => line.replace(ESCAPES, "")).filter((line) => line.length > 80), []);
  await terminal.press("q");
  assertEquals(await terminal.end(), 0);

  await using ended = new Terminal(xen, "--guests");
  await ended.shows(/%utilv/);
  Deno.kill(ended.pid, "SIGTERM");
  assertEquals(await ended.end(), 143);

  const outcome = received(await disk.stopLoad());
  const [listed] = JSON.parse(await xenblk("list", "--json"));
  const { stats } = JSON.parse(await xenblk("show", String(GUEST), "xvda", "--json"));
  assertEquals([stats.rd_req, stats.in_flight], [outcome.reads, 0]);
  assertEquals(stats.wr_req, outcome.writes + outcome.barriers);
  for (const [name, count] of [["read", stats.rd_req], ["write", stats.wr_req], ["flush", stats.f_req]] as const) {
    assertEquals(stats.latency[name].count, count, name);
  }
  assertEquals(listed.stats.rd_req, stats.rd_req);
  assertEquals(listed.rates["r/s"], 0);
  assertMatch(await xenblk("show", String(GUEST), "xvda"), /reads +\d+, \d+ [KM]iB; now 0\.0\/s.*ms \(p99\)/);

  Deno.kill(serve.pid, "SIGSTOP");
  const [alone] = JSON.parse(await xenblk("list", "--json"));
  assertEquals([alone.name, alone.stats], ["xvda", undefined], "a process that does not answer is passed over");
  Deno.kill(serve.pid, "SIGCONT");
  assertEquals(await serve.stop(), 0, serve.messages);
  assertEquals(
    await xenblk("top", "--batch", "-n", "1", "-d", "0.1", "--json").then((text) => JSON.parse(text).disks),
    [],
  );
});
