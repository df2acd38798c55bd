/**
 * Writes docs/cli.md from the verbs' help texts: `deno task docs`.
 * A test compares the file with them.
 */

import { CATALOG } from "../../lib/cli/catalog.ts";
import { overview, verbHelp } from "../../lib/cli/help.ts";
import { ROOT } from "../house/source.ts";

const HEAD = `# The command line

This page is what \`xenblk --help\` and \`xenblk VERB --help\` print, verb by verb; \`deno task docs\` writes it. \`xenblk\`
stands for \`deno run -A cli.ts\`. If a verb needs fewer permissions, its section names them.

Data goes to stdout. Messages go to stderr, and on a terminal progress too. Help and tables fit the terminal: on a
narrow one, columns are shortened or left out. A pipe or a file gets tables in full. With \`-q\` only data and errors are
left: no progress, news or warnings. Options can stand before or after the operands. \`--option=value\` and
\`--option value\` mean the same. After \`--\` everything is an operand. After the first INT, TERM or HUP, the command
finishes its requests and ends; the second ends the process at once.

With \`--json\` an error is JSON too: the last line of stderr is an object
\`{"error":{"kind","exitStatus","message","remedy"}}\`, also for a wrong argument. \`kind\` is \`failed\`, \`usage\`,
\`not-found\`, \`timeout\` or \`hypervisor\`, or \`defect\` for an error that the program does not expect; \`remedy\` is absent if
there is none.

| exit status   | meaning                                                                          |
| ------------- | -------------------------------------------------------------------------------- |
| 0             | done                                                                             |
| 1             | failed                                                                           |
| 2             | usage: an option, an operand or the configuration file is wrong                  |
| 3             | no such domain or device                                                         |
| 4             | timed out waiting for the guest                                                  |
| 5             | hypervisor missing or not permitted                                              |
| 6             | \`image check\`: the image is corrupt                                              |
| 7             | \`image check\`: the image has leaks, and no worse                                 |
| 129, 130, 143 | ended at once by a second HUP, INT or TERM; a dry run or image verb by the first |
`;

/** Path of the reference, in the checkout. */
export const REFERENCE = "docs/cli.md";

/** The whole page. */
export async function reference(): Promise<string> {
  const verbs = await Promise.all(CATALOG.map((entry) => entry.load()));
  const sections = verbs.map((verb) => `## ${verb.name}\n\n${fenced(verbHelp(verb))}`);
  return [HEAD, `## Overview\n\n${fenced(overview(CATALOG))}`, ...sections].join("\n");
}

function fenced(text: string): string {
  return "```text\n" + text + "```\n";
}

if (import.meta.main) Deno.writeTextFileSync(ROOT + REFERENCE, await reference());
