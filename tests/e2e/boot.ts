/**
 * One boot of a suite: packs the checkout and the job, starts QEMU through boot.sh, and shows the progress that dom0
 * reports on the serial line. Kills QEMU after its time limit, or when dom0 is silent for too long. At the end it
 * copies the results from the output disk.
 */

import type { BootRequest } from "./plan.ts";
import type { BootReport, ScenarioResult } from "./report.ts";
import type { Scenario } from "./scenarios.ts";
import { print, shell } from "./shell.ts";

/** Time limit for firmware, Xen and dom0 to start and to power off, in addition to the job. */
export const BOOT_SECONDS = 240;
/** Time limit for dom0 to collect logs, clean up and judge after a scenario's own timeout. */
const JUDGE_SECONDS = 180;

const SIGNALS = ["SIGINT", "SIGTERM"] as const;

/** Boots, runs the scenarios and returns the outcome of each. A scenario that never ended counts as failed. */
export async function bootSuite(cache: string, request: BootRequest): Promise<BootReport> {
  const { suite, init, images, scenarios, jobSeconds, attempt } = request;
  // Boots of the same suite may run at the same time.
  const boot = init === "systemd" ? `${suite}-systemd` : suite;
  const job = `${cache}/job-${boot}.conf`;
  const disk = (name: string): string => `${cache}/run-${boot}-${name}.ext4`;
  const results = `${cache}/results-${boot}${attempt === 1 ? "" : `-${attempt}`}`;
  const names = scenarios.map((scenario) => scenario.name);
  await writeJob(job, request);
  await shell("build/payload.sh", [Deno.execPath(), cache, disk("payload"), job], 300);
  await shell("build/disks.sh", [disk("output"), disk("scratch")], 120);
  const started = performance.now();
  const secondsSince = (): number => Math.round((performance.now() - started) / 1000);
  print(`e2e: booting Xen with a dom0 of Debian ${boot}, ${names.length} scenarios`);
  let bootSeconds: number | undefined;
  const watch = new Watch(scenarios);
  const lines = await runQemu(
    [images, disk("payload"), disk("output"), disk("scratch")],
    jobSeconds + BOOT_SECONDS,
    watch,
    (said) => {
      bootSeconds ??= secondsSince();
      print(`e2e: ${boot} ${said}`);
    },
  );
  await shell("build/results.sh", [disk("output"), results], 120);
  await Deno.remove(disk("scratch"));
  await Deno.writeTextFile(`${results}/serial.txt`, lines.join("\n"));
  const report = names.map((name) => resultOf(name, lines, results));
  return { suite, init, folder: results, seconds: secondsSince(), bootSeconds, results: report };
}

async function writeJob(path: string, { suite, init, scenarios, jobSeconds }: BootRequest): Promise<void> {
  const names = scenarios.map(({ name }) => name).join(" ");
  const full = Deno.env.get("XENBLK_E2E_FULL") === "1" ? 1 : 0;
  const settings = {
    E2E_JOB_SECONDS: jobSeconds,
    E2E_SUITE: suite,
    E2E_INIT: init,
    E2E_FULL: full,
    E2E_SCENARIOS: `"${names}"`,
  };
  await Deno.writeTextFile(path, Object.entries(settings).map(([name, value]) => `${name}=${value}\n`).join(""));
}

/** How long dom0 may be silent, given its last progress line. */
class Watch {
  readonly #scenarios: readonly Scenario[];
  seconds = BOOT_SECONDS;

  constructor(scenarios: readonly Scenario[]) {
    this.#scenarios = scenarios;
  }

  /** `BEGIN NAME` or `END NAME ...`. */
  said(line: string): void {
    const [word, name] = line.split(" ");
    const scenario = word === "BEGIN" ? this.#scenarios.find((one) => one.name === name) : undefined;
    this.seconds = JUDGE_SECONDS + (scenario?.timeoutSeconds ?? 0);
  }
}

/** Runs QEMU until it exits or is killed. Returns the lines of its serial console. */
async function runQemu(
  args: readonly string[],
  timeoutSeconds: number,
  watch: Watch,
  said: (line: string) => void,
): Promise<string[]> {
  const script = new URL("./boot.sh", import.meta.url).pathname;
  const child = new Deno.Command("bash", { args: [script, ...args], stdin: "null", stdout: "piped" }).spawn();
  using guard = new Guard(child, timeoutSeconds, watch);
  const lines: string[] = [];
  let rest = "";
  for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
    const parts = (rest + text).replaceAll("\r", "").split("\n");
    rest = parts.pop()!;
    for (const line of parts) {
      lines.push(line);
      if (line.includes("e2e dom0: ")) guard.progress();
      const progress = /e2e: ((BEGIN|END) .*)/.exec(line)?.[1];
      if (progress === undefined) continue;
      watch.said(progress);
      guard.progress();
      said(progress);
    }
  }
  const { code } = await child.status;
  const why = guard.reason ?? (code === 0 ? undefined : `QEMU ended with status ${code}`);
  if (why !== undefined) {
    lines.push(`e2e host: ${why}`);
    print(`e2e: ${why}`);
  }
  return lines;
}

/** Kills QEMU when it takes too long, when dom0 is silent for too long, and when the run is interrupted. */
class Guard implements Disposable {
  /** Why QEMU was killed; undefined if it was not. */
  reason: string | undefined;
  readonly #child: Deno.ChildProcess;
  readonly #watch: Watch;
  readonly #timer: ReturnType<typeof setTimeout>;
  #silence: ReturnType<typeof setTimeout>;

  constructor(child: Deno.ChildProcess, timeoutSeconds: number, watch: Watch) {
    this.#child = child;
    this.#watch = watch;
    this.#timer = setTimeout(() => this.#kill(`the boot took longer than ${timeoutSeconds} s`), timeoutSeconds * 1000);
    this.#silence = this.#startSilence();
    for (const signal of SIGNALS) Deno.addSignalListener(signal, this.#interrupted);
  }

  /** dom0 reported progress. */
  progress(): void {
    clearTimeout(this.#silence);
    this.#silence = this.#startSilence();
  }

  #startSilence(): ReturnType<typeof setTimeout> {
    const { seconds } = this.#watch;
    return setTimeout(() => this.#kill(`dom0 said nothing for ${seconds} s`), seconds * 1000);
  }

  #kill(reason: string): void {
    this.reason ??= reason;
    this.#child.kill("SIGKILL");
  }

  // No QEMU may outlive an interrupted run: the guards of all boots kill theirs before the run exits.
  readonly #interrupted = (): void => {
    this.#child.kill("SIGKILL");
    setTimeout(() => Deno.exit(130), 0);
  };

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    clearTimeout(this.#silence);
    for (const signal of SIGNALS) Deno.removeSignalListener(signal, this.#interrupted);
  }
}

function resultOf(name: string, lines: readonly string[], folder: string): ScenarioResult {
  const pattern = new RegExp(`e2e: END ${name} (\\d+) (\\d+) ?(.*)`);
  const match = lines.map((line) => pattern.exec(line)).find((found) => found !== null);
  const log = textOf(`${folder}/${name}/log.txt`);
  const report = textOf(`${folder}/${name}/report.txt`);
  if (match === undefined || match === null) {
    const begun = lines.some((line) => line.includes(`e2e: BEGIN ${name}`));
    return { name, outcome: "failed", seconds: 0, remark: begun ? "did not end" : "was not reached", log, report };
  }
  const status = Number(match[1]);
  const outcome = status === 0 ? "passed" : status === 77 ? "skipped" : "failed";
  return { name, outcome, seconds: Number(match[2]), remark: match[3] ?? "", log, report };
}

function textOf(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return "";
    throw error;
  }
}
