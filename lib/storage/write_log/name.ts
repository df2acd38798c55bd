/**
 * The names of write logs in the journal store: a log belongs to one device.
 */

/** The name of a device's write log in the journal store. */
export function writeLogName(label: string): string {
  return `${label.replaceAll("/", "-")}-writes`;
}

/** The device of the write log with that name; undefined if it is another file. */
export function writeLogOwner(name: string): string | undefined {
  const [, kind, domain, vdev] = /^(.+)-(\d+)-(\d+)-writes$/.exec(name) ?? [];
  return kind === undefined ? undefined : `${kind}/${domain}/${vdev}`;
}
