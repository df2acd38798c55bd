/**
 * A disk in a SQLite database: one row for each 4 KiB that was written. A flush commits.
 *
 *     xenblk attach web plugin:examples/sqlite_disk.ts?/srv/disk.db --plugin-allow read=/srv --plugin-allow write=/srv
 */

import { DatabaseSync } from "node:sqlite";
import { defineDisk, type DiskMethods } from "xenblk";

const BLOCK_BYTES = 4096;
const SIZE_BYTES = 1024 ** 3;

export default defineDisk({
  open(path, { readOnly }): DiskMethods {
    const database = new DatabaseSync(path, { readOnly });
    if (!readOnly) database.exec("CREATE TABLE IF NOT EXISTS blocks (number INTEGER PRIMARY KEY, data BLOB NOT NULL)");
    database.exec("BEGIN");
    const get = database.prepare("SELECT data FROM blocks WHERE number = ?");
    const put = database.prepare("INSERT OR REPLACE INTO blocks VALUES (?, ?)");
    const remove = database.prepare("DELETE FROM blocks WHERE number BETWEEN ? AND ?");

    const load = (number: number): Uint8Array => {
      const data = get.get(number)?.["data"];
      return data instanceof Uint8Array ? data : new Uint8Array(BLOCK_BYTES);
    };
    const reading: DiskMethods = {
      sizeBytes: SIZE_BYTES,
      // A smaller write would read the rest of its block first.
      physicalSectorBytes: BLOCK_BYTES,
      read(offset, into): void {
        for (let at = 0; at < into.length;) {
          const from = (offset + at) % BLOCK_BYTES;
          const part = load(Math.floor((offset + at) / BLOCK_BYTES)).subarray(from, from + into.length - at);
          into.set(part, at);
          at += part.length;
        }
      },
      close: () => database.close(),
    };
    return readOnly ? reading : {
      ...reading,
      discardGranularityBytes: BLOCK_BYTES,
      write(offset, data): void {
        for (let at = 0; at < data.length;) {
          const number = Math.floor((offset + at) / BLOCK_BYTES);
          const from = (offset + at) % BLOCK_BYTES;
          const part = data.subarray(at, at + BLOCK_BYTES - from);
          const block = load(number);
          block.set(part, from);
          put.run(number, block);
          at += part.length;
        }
      },
      flush: () => database.exec("COMMIT; BEGIN"),
      discard: (offset, length) =>
        void remove.run(Math.ceil(offset / BLOCK_BYTES), Math.floor((offset + length) / BLOCK_BYTES) - 1),
    };
  },
});
