/**
 * `xenblk weight DOMAIN VDEV [WEIGHT]`: shows a disk's share of the thread that serves it, or changes it.
 */

import { deviceLabel } from "../backend/journals.ts";
import { LEAST_WEIGHT, MOST_WEIGHT } from "../dataplane/fairness.ts";
import { XenblkError } from "../errors.ts";
import { findDisk } from "../toolstack/detach.ts";
import { parseVdev } from "../xenbus/vdev.ts";
import { namedDisk } from "./disk_result.ts";
import { flag, integer } from "./options.ts";
import { renderFields } from "./table.ts";
import { clientOfServing } from "./through_socket.ts";
import { defineVerb } from "./verb.ts";

const WEIGHT = integer("the new weight; default: only show it", LEAST_WEIGHT, MOST_WEIGHT);

/** The verb. */
export const weight = defineVerb({
  name: "weight",
  summary: "Show or change a disk's share of its thread while its guest uses it",
  description:
    "Asks the process that serves the disk, by its control socket. Disks of different guests that one thread serves share " +
    "it in proportion to their weights while they have requests that wait; while nobody else has, a small weight costs " +
    "nothing. A disk of a guest with several divides what that guest gets. A new weight holds at once, and until the " +
    "disk is detached: a process that takes over finds it again. --weight and the configuration file have the one that " +
    "disks begin with.",
  operands: [
    { name: "DOMAIN", help: "the guest: a name, UUID or domid", required: true },
    { name: "VDEV", help: "the virtual device, such as xvdb", required: true, check: parseVdev },
    { name: "WEIGHT", help: `${WEIGHT.help}, ${WEIGHT.allowed}`, required: false, check: parseWeight },
  ],
  options: { "json": flag("Print the weight as JSON", "J") },
  permissions: "--allow-ffi --allow-env --allow-net, and --allow-read and --allow-write of /run/xenblk.",
  examples: ["xenblk weight web xvdb", "xenblk weight web xvdb 400"],
  async run({ host, output }, options, operands): Promise<number> {
    using store = (await host.openNativePlatform()).openXenstore();
    const found = findDisk(store, operands["domain"]!, operands["vdev"]!);
    using client = await clientOfServing(found, "weigh");
    const given = operands["weight"];
    const wanted = given === undefined ? {} : { weight: parseWeight(given) };
    const answer = await client.call("weight", { device: deviceLabel(found.device), ...wanted });
    if (options.json) output.json({ ...namedDisk(found), ...answer });
    else output.data(renderFields([["weight", String(answer.weight)]]));
    return 0;
  },
});

/** Throws {@linkcode XenblkError} (`usage`). */
function parseWeight(text: string): number {
  const parsed = WEIGHT.parse(text);
  if (parsed !== undefined) return parsed;
  throw new XenblkError(`Cannot use ${JSON.stringify(text)} as a weight: it takes ${WEIGHT.allowed}`, {
    kind: "usage",
  });
}
