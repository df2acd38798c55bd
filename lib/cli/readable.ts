/**
 * Log lines as an operator reads them: a device's label, `vbd3/5/51712`, becomes the names that `xenblk list` and xl use.
 */

import { printable } from "../log.ts";
import { formatVdev } from "../xenbus/vdev.ts";

/** A label at the beginning of a line or after a space: not a part of a path. */
const LABEL = /(?<=^|\s)([A-Za-z][\w-]*)\/(\d{1,5})\/(\d{1,9})( queue \d+)?(?=[\s:;,]|$)/;
const LABELS = new RegExp(LABEL, "g");

/** The names of guests, as far as they are known. */
export type GuestNames = ReadonlyMap<number, string>;

/** A disk as a line of the log names it. */
export interface NamedDisk {
  /** The backend kind. */
  readonly kind: string;
  /** The guest's number. */
  readonly domain: number;
  /** Its name, if that is known. */
  readonly guest?: string;
  /** Such as `xvda`. */
  readonly vdev: string;
}

/** The first disk in a line that is not made readable yet. */
export function diskIn(line: string, guests: GuestNames = new Map()): NamedDisk | undefined {
  const [, kind, domain, number] = LABEL.exec(line) ?? [];
  const vdev = formatVdev(Number(number));
  if (kind === undefined || vdev === number) return undefined;
  const guest = guests.get(Number(domain));
  return {
    kind,
    domain: Number(domain),
    ...(guest === undefined ? {} : { guest: printable(guest) }),
    vdev,
  };
}

/** `vbd3/5/51712: offering` becomes `xvda of web (domain 5): offering`; without a name, `xvda of domain 5: offering`. */
export function readableLine(line: string, guests: GuestNames = new Map()): string {
  return line.replace(LABELS, (label, _kind, domain: string, vdev: string, queue: string | undefined) => {
    const disk = formatVdev(Number(vdev));
    if (disk === vdev) return label;
    const name = guests.get(Number(domain));
    const guest = name === undefined ? `domain ${domain}` : `${printable(name)} (domain ${domain})`;
    return `${disk} of ${guest}${queue === undefined ? "" : `,${queue}`}`;
  });
}
