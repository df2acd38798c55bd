/**
 * The end of our process after every single store to the log: what recovery then finds brings back every answered write,
 * and nothing that is wrong.
 */

import { assert, assertEquals } from "@std/assert";
import { newNonce } from "../../lib/nonce.ts";
import { DiskLog, logBytes } from "../../lib/storage/write_log/log.ts";
import { randomSource } from "./rig.ts";
import { DATA_BYTES, Guest, Stage } from "./write_log_rig.ts";

/** Those that store; plain stores lie between two of them, and kill -9 keeps their order. */
const STORES = ["store", "add", "compareExchange"] as const;

/** Calls `look` before and after each atomic store of `body`. */
function afterEveryStore(look: () => void, body: () => void): void {
  const originals = STORES.map((name) => [name, Atomics[name]] as const);
  for (const [name, original] of originals) {
    Object.assign(Atomics, {
      [name]: (...args: Parameters<typeof original>): number => {
        look();
        const result = (original as (...args: unknown[]) => number)(...args);
        look();
        return result;
      },
    });
  }
  try {
    body();
  } finally {
    Object.assign(Atomics, Object.fromEntries(originals));
  }
}

Deno.test("whichever store to the log was the last one, every answered write is brought back, and nothing else", () => {
  let looks = 0;
  let found = 0;
  for (let seed = 1; seed <= 6; seed++) {
    const random = randomSource(100 + seed);
    using stage = new Stage(random);
    const guest = new Guest(stage, random);
    const look = (): void => {
      looks++;
      found += stage.log.unflushed().length;
      guest.check(stage.afterDeath());
    };
    afterEveryStore(look, () => {
      for (let step = 0; step < 300; step++) guest.step();
      guest.finish();
    });
  }
  assert(looks > 5000 && found > looks, `${looks} looks, ${found} operations`);
});

Deno.test("whichever store was the last one, a log that is begun or emptied is whole, empty, or nobody's", () => {
  const memory = new Uint8Array(new SharedArrayBuffer(logBytes(2, DATA_BYTES)));
  const log = new DiskLog(memory);
  const [before, after] = [newNonce(), newNonce()];
  const fill = (): void => {
    for (let i = 0; i < 2; i++) {
      const partition = log.partition(i);
      for (let sector = 0; sector < 5; sector++) partition.writeAnswered(partition.addWrite(512 * sector, 512));
    }
  };
  log.begin(before, 2, DATA_BYTES);
  fill();
  let invalid = 0;
  const look = (isEmpty: boolean): void => {
    const count = log.unflushed().length;
    if (log.belongsTo(before)) assertEquals(isEmpty && count === 0 ? 10 : count, 10);
    else if (log.belongsTo(after)) assertEquals(count, 0);
    else invalid++;
  };
  afterEveryStore(() => look(true), () => log.empty());
  assertEquals([log.belongsTo(before), log.unflushed().length, invalid], [true, 0, 0]);
  fill();
  afterEveryStore(() => look(false), () => log.begin(after, 2, DATA_BYTES));
  assert(log.belongsTo(after) && invalid > 0);
});
