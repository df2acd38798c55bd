/**
 * `xenblk backup verify BACKUP`: checks a backup and all that it is based on.
 */

import { verifyChain } from "../../backup/file.ts";
import { absolutePath } from "../../path_lookup.ts";
import { formatSize } from "../../sizes.ts";
import { flag } from "../options.ts";
import { renderTable } from "../table.ts";
import { defineVerb } from "../verb.ts";

/** The verb. */
export const verifyBackup = defineVerb({
  name: "backup verify",
  summary: "Check a backup and all that it is based on",
  description:
    "Each file has to be a backup that was completed, to be based on the very backup that it was made from, and to have " +
    "metadata that is whole, as `qemu-img check` judges. Data is not compared with anything. Of backups in qcow2 files.",
  operands: [{ name: "BACKUP", help: "the newest file", required: true, isPath: true }],
  options: { "json": flag("Print the files as JSON", "J") },
  permissions: "--allow-run=qemu-img --allow-env=XENBLK_QEMU_IMG --allow-read.",
  examples: ["xenblk backup verify /backup/web-2.qcow2"],
  async run({ output, signals, inform }, options, operands): Promise<number> {
    const chain = await verifyChain(
      await absolutePath(operands["backup"]!).catch(() => operands["backup"]!),
      signals.signal,
    );
    if (options.json) {
      output.json(
        chain.map(({ path, sizeBytes, allocatedBytes, mark }) => ({ path, sizeBytes, allocatedBytes, ...mark })),
      );
      return 0;
    }
    const rows = chain.map(({ path, mark, allocatedBytes }) => [
      mark!.id.slice(0, 15),
      mark!.base === undefined ? "full" : "incremental",
      formatSize(allocatedBytes),
      path,
    ]);
    output.data(renderTable(
      [{ heading: "MADE" }, { heading: "KIND" }, { heading: "TAKES", align: "right" }, {
        heading: "FILE",
        cut: "start",
      }],
      rows,
      true,
      output.columns,
    ));
    inform("the backup is whole");
    return 0;
  },
});
