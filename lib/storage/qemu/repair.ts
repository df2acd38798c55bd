/**
 * Repairs an image that QEMU does not write to because its last writer died: of the formats here, parallels. Others are
 * repaired by QEMU itself when it opens them.
 */

import { errorText } from "../../errors.ts";
import type { BlockNode } from "./graph.ts";
import { runQemuImg } from "./qemu_img.ts";
import { QmpError } from "./qmp.ts";

/** How long a repair may take. */
const LIMIT_MS = 60_000;

/** Whether QEMU refuses the image for that reason. */
export function wasLeftOpen({ description }: QmpError): boolean {
  return /not closed correctly/.test(description);
}

/**
 * Repairs the image of the node that the error names; qemu-img takes its lock. Resolves with what was done, for the log.
 * Rejects with {@linkcode QmpError}, the same with more words, if it cannot be repaired.
 */
export async function repair(nodes: readonly BlockNode[], error: QmpError): Promise<string> {
  const { command, subject, errorClass, description } = error;
  const named = (name: unknown): BlockNode | undefined => nodes.find((each) => each["node-name"] === name);
  const node = named(subject);
  const filename = named(node?.["file"])?.["filename"];
  if (node === undefined || typeof filename !== "string") throw error;
  try {
    const { status, stderr } = await runQemuImg(["check", "-q", "-r", "all", "-f", node.driver, filename], {
      what: "Cannot repair it",
      timeoutMs: LIMIT_MS,
    });
    if (status === 0) return `repaired, because its last writer had not closed it (${description})`;
    throw new Error(stderr.trim());
  } catch (cause) {
    throw new QmpError(command, subject, errorClass, `${description}; qemu-img cannot repair it: ${errorText(cause)}`);
  }
}
