/**
 * Repairs an image that QEMU does not write to because its last writer died: of the formats here, parallels. Others are
 * repaired by QEMU itself when it opens them.
 */

import { XenblkError } from "../../errors.ts";
import { shellWord } from "../../shell_word.ts";
import type { DiskPlan } from "./plan.ts";
import { runQemuImg } from "./qemu_img.ts";
import type { QmpError } from "./qmp.ts";

/** How long a repair may take. */
const LIMIT_MS = 60_000;

/** Whether QEMU refuses the image for that reason. */
export function wasLeftOpen({ description }: QmpError): boolean {
  return /not closed correctly/.test(description);
}

/**
 * Repairs the image of the node that the error names; qemu-img takes its lock. Resolves with what was done, for the log.
 * Rejects with {@linkcode XenblkError} if it cannot be repaired. `name` is the disk's, with its noun.
 */
export async function repair(name: string, plan: DiskPlan, { subject, description }: QmpError): Promise<string> {
  const nodes = plan.nodes({ aio: "threads", native: false });
  const node = nodes.find((each) => each["node-name"] === subject);
  const filename = nodes.find((each) => each["node-name"] === node?.["file"])?.["filename"];
  const failed = `Cannot open ${name}: node ${subject}: ${description}`;
  if (node === undefined || typeof filename !== "string") {
    throw new XenblkError(failed, { remedy: "repair it with `qemu-img check -r all`" });
  }
  const { status, stderr } = await runQemuImg(["check", "-q", "-r", "all", "-f", node.driver, filename], {
    what: failed,
    timeoutMs: LIMIT_MS,
  });
  if (status === 0) return `repaired, because its last writer had not closed it (${description})`;
  throw new XenblkError(`${failed}; and repairing it failed: ${stderr.trim()}`, {
    remedy: `look at it with \`qemu-img check -f ${node.driver} ${shellWord(filename)}\``,
  });
}
