// deno-lint-ignore-file no-console -- this is a program
/**
 * A run with faults, by a seed: a guest makes requests while its storage reports errors, grant copies fail, its backend
 * is killed, and xenstore goes away. At the end every byte must be right, and nothing may be left behind.
 *
 *     deno run -A examples/fault_injection.ts [SEED]
 */

import { assertNoLeak, testHost } from "xenblk/testing";

const seed = Number(Deno.args[0] ?? 1);
const MIB = 2 ** 20;

await using host = await testHost();
const settings = { filters: [`error,rate=0.01,seed=${seed}`, "delay,write=1"] };
let service = await host.serve({ settings });
const guest = await host.startGuest();
const image = await Deno.makeTempFile({ suffix: ".img" });
await Deno.truncate(image, 8 * MIB);
guest.addDisk({ image });
const drive = await guest.connect();

const load = drive.load({ requests: 3000, depth: 16, flushEvery: 50, seed });
const reaches = async (requests: number): Promise<void> => {
  while (drive.progress.requests < requests && drive.busy) await new Promise((resolve) => setTimeout(resolve, 1));
};
{
  using copies = host.inject("grant copy", { rate: 0.01, seed });
  await reaches(1000);
  console.log(`${copies.struck} grant copies failed`);
}
await service.kill({ beforeNotification: true });
service = await host.serve({ settings });
await reaches(2000);
host.store.lose();
host.store.restore();

const { errorsByKind, miscompares, unanswered, verifiedSectors } = await load;
console.log(`seed ${seed}: errors ${JSON.stringify(errorsByKind)}, ${verifiedSectors} sectors verified`);
if (miscompares + unanswered > 0) throw new Error(`${miscompares} sectors differ, ${unanswered} requests are lost`);
await drive.disconnect();
await service.close();
await assertNoLeak(host);
await Deno.remove(image);
