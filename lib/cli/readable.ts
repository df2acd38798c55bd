/**
 * Log lines as an operator reads them: a device's label, `vbd3/5/51712`, becomes the names that `xenblk list` and xl use.
 */

import { formatVdev } from "../xenbus/vdev.ts";

/** A label at the beginning of a line or after a space: not a part of a path. */
const LABEL = /(?<=^|\s)[A-Za-z][\w-]*\/(\d{1,5})\/(\d{1,9})( queue \d+)?(?=[\s:;,]|$)/g;

/** `vbd3/5/51712: offering` becomes `xvda of domain 5: offering`. */
export function readableLine(line: string): string {
  return line.replace(LABEL, (label, domain: string, vdev: string, queue: string | undefined) => {
    const name = formatVdev(Number(vdev));
    return name === vdev ? label : `${name} of domain ${domain}${queue === undefined ? "" : `,${queue}`}`;
  });
}
