/**
 * `xenblk uninstall`: removes what `xenblk install` has written, and nothing else.
 */

import { XenblkError } from "../../errors.ts";
import { flag } from "../options.ts";
import { defineVerb } from "../verb.ts";
import { Installation } from "./installation.ts";
import { PLACE_OPTIONS } from "./paths.ts";

/** systemd has a link here for each unit that runs. */
const RUNNING_UNITS = "/run/systemd/units";

/** The verb. */
export const uninstall = defineVerb({
  name: "uninstall",
  summary: "Remove what `xenblk install` has written",
  description:
    "Removes the files that `xenblk install` has written. A file that was changed since is kept and named. " +
    "Disks, journals and the configuration stay. While the service runs, nothing is removed.",
  operands: [],
  options: {
    ...PLACE_OPTIONS,
    "force": flag("Remove the files although the service runs; it goes on until it is stopped", "f"),
  },
  permissions: "--allow-read --allow-write.",
  examples: ["xenblk uninstall --dry-run", "xenblk uninstall"],
  // deno-lint-ignore require-await -- a verb is asynchronous
  async run({ output, inform }, { root = "", force, "dry-run": dryRun }): Promise<number> {
    const installation = new Installation(root);
    if (installation.isEmpty) {
      inform("there is nothing to remove: xenblk install has written nothing here");
      return 0;
    }
    if (!force) refuseWhileRunning(root);
    const steps = installation.removal();
    if (!dryRun) installation.uninstall(steps);
    for (const { verdict, path } of steps) output.data(`${verdict.padEnd(9)} ${root}${path}\n`);
    if (dryRun) inform("nothing was done (--dry-run)");
    return 0;
  },
});

function refuseWhileRunning(root: string): void {
  let running: string[];
  try {
    running = [...Deno.readDirSync(root + RUNNING_UNITS)].map(({ name }) => name.replace(/^invocation:/, ""))
      .filter((name) => /^xenblk(@.*)?\.service$/.test(name));
  } catch {
    return; // systemd does not run here
  }
  if (running.length === 0) return;
  throw new XenblkError(`Cannot uninstall: ${running.join(", ")} still runs, and guests may need it`, {
    remedy: `stop it (systemctl disable --now ${running.join(" ")}), or use --force`,
  });
}
