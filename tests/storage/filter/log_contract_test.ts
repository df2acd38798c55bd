/**
 * A disk behind the filter `log` keeps the contract of every disk: recording changes nothing.
 */

import { chooseFilters } from "../../../lib/storage/filter/spec.ts";
import { FilterStack } from "../../../lib/storage/filter/stack.ts";
import type { Disk } from "../../../lib/storage/disk.ts";
import { openDisk } from "../../../lib/storage/open.ts";
import { diskContract } from "../../../testing.ts";

const DIRECTORY = Deno.makeTempDirSync();
addEventListener("unload", () => Deno.removeSync(DIRECTORY, { recursive: true }));

async function logged(readOnly: boolean): Promise<Disk> {
  const stack = new FilterStack(await chooseFilters([`log,file=${DIRECTORY}/a.trace`]));
  const disk = await openDisk({ format: "memory", target: "1M", readOnly, engine: "auto" });
  const warn = (line: string): never => {
    throw new Error(line);
  };
  const hold = await stack.open(disk.properties, { device: "memory", warn });
  return stack.wrap(disk, { key: "", readOnly, hold });
}

diskContract({
  name: "memory behind log",
  sizeBytes: 2 ** 20,
  discards: true,
  discardsToZeroes: true,
  open: async ({ readOnly }) => ({ disk: await logged(readOnly) }),
});
