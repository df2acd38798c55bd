/**
 * `xenblk config check [FILE]`: shows every fault of a configuration file.
 */

import { printable } from "../../log.ts";
import { flag } from "../options.ts";
import { CONFIG_FILE } from "../serve_options.ts";
import { defineVerb } from "../verb.ts";
import { faultText } from "./fault.ts";
import { readConfig } from "./file.ts";

/** The verb. */
export const check = defineVerb({
  name: "config check",
  summary: "Check a configuration file, and show all of its faults",
  description:
    "Prints a line for each fault: the file, the line in it, what is wrong, and what to do. The exit status is " +
    "1 if there is one. A filter from outside is loaded, as serve would do.",
  operands: [{ name: "FILE", help: `the file; default: ${CONFIG_FILE}`, required: false, isPath: true }],
  options: { "json": flag("Print JSON: the file, and a list of faults", "J") },
  permissions: `--allow-read=${CONFIG_FILE}, or the FILE.`,
  examples: ["xenblk config check", "xenblk config check ./new.toml && cp new.toml /etc/xenblk/config.toml"],
  async run({ output, inform }, options, operands): Promise<number> {
    const path = operands["file"] ?? CONFIG_FILE;
    const { faults, disks } = (await readConfig(path, true))!;
    if (options.json) output.json({ file: path, faults });
    else {
      output.data(faults.map((fault) => `${printable(faultText(path, fault))}\n`).join(""));
      const rules = `${disks.length} ${disks.length === 1 ? "rule" : "rules"} for disks`;
      if (faults.length === 0) inform(`${path} has no faults, and ${rules}`);
    }
    return faults.length === 0 ? 0 : 1;
  },
});
