/**
 * Records of systemd's journal with fields of their own (systemd.journal-fields(7)), by its native protocol: a datagram
 * for each record, with a line `FIELD=value` for each field.
 */

/** Where the journal takes them. */
export const JOURNAL_SOCKET = "/run/systemd/journal/socket";

/** The datagram of a record. Values have one line each. Undefined: the record has no such field. */
export function journalRecord(fields: Readonly<Record<string, string | undefined>>): Uint8Array<ArrayBuffer> {
  const lines = Object.entries(fields).map(([name, value]) => value === undefined ? "" : `${name}=${value}\n`);
  return new TextEncoder().encode(lines.join(""));
}
