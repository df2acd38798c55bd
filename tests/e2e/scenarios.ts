/**
 * The list of scenarios: the files in the folder scenarios, and the settings in their first lines.
 *
 * A scenario's comment may hold `# suites: trixie` (default: all), `# short: trixie` or `# short: none` (default: all of
 * its suites), `# timeout: 120 s` (default 240), and `# init: systemd` (default: a script of ours is process 1 of dom0).
 */

/** What process 1 of dom0 is: `script` is dom0/init, which starts what the scenarios need and little else. */
export const INITS = ["script", "systemd"] as const;

/** One of them. Each needs a boot of its own. */
export type Init = (typeof INITS)[number];

/** One scenario. */
export interface Scenario {
  /** The file's name without its extension. */
  readonly name: string;
  /** The dom0 roots that it runs on. */
  readonly suites: readonly string[];
  /** Those of `suites` on which a short run has it. */
  readonly shortSuites: readonly string[];
  /** dom0 ends it after this time. */
  readonly timeoutSeconds: number;
  readonly init: Init;
}

const FOLDER = new URL("./scenarios/", import.meta.url);
const ALL_SUITES = ["trixie", "bookworm"];
/** The same default as in dom0/job.sh. */
const DEFAULT_TIMEOUT_SECONDS = 240;

/** All scenarios, sorted by name; they run in this order. */
export function listScenarios(): readonly Scenario[] {
  return [...Deno.readDirSync(FOLDER)]
    .filter((entry) => entry.isFile && entry.name.endsWith(".sh"))
    .map((entry) => entry.name.slice(0, -".sh".length))
    .sort()
    .map((name) => describe(name, Deno.readTextFileSync(new URL(`${name}.sh`, FOLDER))));
}

/** The same scenarios, each on those suites only on which a short run has it. */
export function shortForm(scenarios: readonly Scenario[]): readonly Scenario[] {
  return scenarios.map((scenario) => ({ ...scenario, suites: scenario.shortSuites }));
}

function describe(name: string, text: string): Scenario {
  const suites = /^# suites: (.+)$/m.exec(text)?.[1]?.split(" ") ?? ALL_SUITES;
  const short = /^# short: (.+)$/m.exec(text)?.[1];
  const shortSuites = short === undefined ? suites : short.split(" ").filter((suite) => suite !== "none");
  const timeoutSeconds = Number(/^# timeout: (\d+) s$/m.exec(text)?.[1] ?? DEFAULT_TIMEOUT_SECONDS);
  const named = /^# init: (.+)$/m.exec(text)?.[1] ?? "script";
  const init = INITS.find((one) => one === named);
  if (init === undefined) throw new Error(`scenario ${name}: no init ${named}; it is one of ${INITS.join(", ")}`);
  return { name, suites, shortSuites, timeoutSeconds, init };
}
