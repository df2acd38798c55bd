/**
 * Which scenarios there are: the files of the folder scenarios, with what their first lines say about them. It must not
 * know how they are run.
 *
 * A scenario's comment may hold `# suites: trixie` (default: all) and `# timeout: 120 s` (read in dom0).
 */

/** One scenario. */
export interface Scenario {
  /** The file's name without its ending. */
  readonly name: string;
  /** The dom0 roots that it can run on. */
  readonly suites: readonly string[];
}

const FOLDER = new URL("./scenarios/", import.meta.url);
const ALL_SUITES = ["trixie", "bookworm"];

/** All scenarios, in the order in which they run: that of their names. */
export function listScenarios(): readonly Scenario[] {
  return [...Deno.readDirSync(FOLDER)]
    .filter((entry) => entry.isFile && entry.name.endsWith(".sh"))
    .map((entry) => entry.name.slice(0, -".sh".length))
    .sort()
    .map((name) => ({ name, suites: suitesOf(Deno.readTextFileSync(new URL(`${name}.sh`, FOLDER))) }));
}

function suitesOf(text: string): readonly string[] {
  const words = /^# suites: (.+)$/m.exec(text)?.[1];
  return words === undefined ? ALL_SUITES : words.split(" ");
}
