/**
 * `xenblk doctor`: checks everything that serving needs and shows each problem with its fix.
 * It changes nothing.
 */

import { EXIT_STATUS } from "../../errors.ts";
import { flag } from "../options.ts";
import { renderTable } from "../table.ts";
import { defineVerb } from "../verb.ts";
import type { Finding } from "./checks.ts";
import { examine, probesOf } from "./examine.ts";
import { THIS_MACHINE } from "./machine.ts";

/** The verb. */
export const doctor = defineVerb({
  name: "doctor",
  summary: "Check this machine for everything that serving needs; each problem comes with its fix",
  description:
    "The exit status is 5 if a row says fail: serve and attach then cannot work here. dry-run needs none of this.",
  operands: [],
  options: {
    "json": flag("Print JSON", "J"),
    "no-headings": flag("Print the table without its headings"),
  },
  permissions:
    "--allow-read --allow-write --allow-ffi --allow-env --allow-run --allow-sys; a row shows what could not be " +
    "checked without one.",
  examples: ["xenblk doctor", "xenblk doctor --json | jq '.[] | select(.standing != \"ok\")'"],
  async run({ output, host }, options): Promise<number> {
    const findings = await examine(probesOf(await host.openNativePlatform(), THIS_MACHINE));
    if (options.json) output.json(findings);
    else output.data(renderFindings(findings, !options["no-headings"], output.columns));
    return findings.some(({ standing }) => standing === "fail") ? EXIT_STATUS.hypervisor : 0;
  },
});

/** The findings as a table; a fix is on its own line below its row. */
export function renderFindings(
  findings: readonly Finding[],
  headings: boolean,
  terminalColumns = Infinity,
): string {
  const columns = [{ heading: "CHECK" }, { heading: "STANDING" }, { heading: "DETAIL", cut: "wrap" }] as const;
  const rows = findings.flatMap(({ check, standing, detail, fix }) => {
    const row = [check, standing, detail];
    return fix === undefined ? [row] : [row, ["", "", `fix: ${fix}`]];
  });
  return renderTable(columns, rows, headings, terminalColumns);
}
