/**
 * `xenblk snapshot list DOMAIN VDEV`: shows the snapshots of a disk, whether its guest runs with it or not.
 */

import { deviceLabel } from "../../backend/journals.ts";
import { formatSize } from "../../sizes.ts";
import { activeImage } from "../../storage/image/overlay_note.ts";
import { imageName, parseParams } from "../../storage/image/spec.ts";
import { describeChain, type SnapshotChain } from "../../storage/qemu/overlay_chain.ts";
import { findDisk } from "../../toolstack/detach.ts";
import { describeDevice } from "../../toolstack/list.ts";
import { namedDisk } from "../disk_result.ts";
import { flag } from "../options.ts";
import { renderTable } from "../table.ts";
import { throughSocket } from "../through_socket.ts";
import { defineVerb } from "../verb.ts";
import { DOMAIN, PERMISSIONS, VDEV } from "./disks.ts";

/** The verb. */
export const list = defineVerb({
  name: "snapshot list",
  summary: "Show the snapshots of a disk",
  description:
    "The newest snapshot comes first. IMAGE is the file that holds what the disk held then, OVERLAY the one with what was " +
    "written since, and SIZE what the overlay occupies.",
  operands: [DOMAIN, VDEV],
  options: { "json": flag("Print JSON", "J"), "no-headings": flag("Print the table without its headings") },
  permissions: `${PERMISSIONS} Also --allow-read of the images' directories.`,
  examples: ["xenblk snapshot list web xvda", "xenblk snapshot list web xvda --json"],
  async run({ host, output, inform }, options, operands): Promise<number> {
    using store = (await host.openNativePlatform()).openXenstore();
    const found = findDisk(store, operands["domain"]!, operands["vdev"]!);
    const { device } = found;
    const unserved = async (): Promise<SnapshotChain> => {
      const image = imageName(await parseParams(describeDevice(store, device).params ?? "null:0"));
      return await describeChain(await activeImage(image, true));
    };
    const chain = await throughSocket(
      device,
      async (client) => await client.call("snapshots", { device: deviceLabel(device) }),
      unserved,
    );
    if (options.json) output.json({ ...namedDisk(found), ...chain });
    else if (chain.snapshots.length === 0) inform("it has no snapshots");
    else {
      output.data(render(chain, !options["no-headings"], output.columns));
      for (const { snapshot, merging } of chain.snapshots) {
        if (merging !== undefined) inform(`${snapshot} is being merged, or was in part: nobody can go back to it`);
      }
    }
    return 0;
  },
});

function render({ snapshots }: SnapshotChain, headings: boolean, terminalColumns: number): string {
  return renderTable(
    [
      { heading: "NAME", cut: "end" },
      { heading: "TAKEN" },
      { heading: "SIZE", align: "right" },
      { heading: "IMAGE", cut: "start" },
      { heading: "OVERLAY", cut: "start", leaveOut: 1 },
    ],
    snapshots.map(({ snapshot, created, overlayBytes, base, overlay }) => [
      snapshot,
      created.slice(0, 19).replace("T", " "),
      formatSize(overlayBytes),
      base,
      overlay,
    ]),
    headings,
    terminalColumns,
  );
}
