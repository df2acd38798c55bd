/**
 * Scratch files that a process has left between making them and removing their names: which of them the next one removes.
 */

import { assert, assertEquals } from "@std/assert";
import { makeScratch, removeScratch, type Scratch } from "../../../lib/storage/qemu/scratch.ts";
import { daemonTest } from "./rig.ts";

const HOUR_MS = 3_600_000;

async function make(directory: string): Promise<Scratch> {
  const sizes = { sizeBytes: 1 << 20, limitBytes: 1 << 20 };
  return await makeScratch({ what: "Cannot export xvda", directory, ...sizes, pid: Deno.pid });
}

daemonTest(
  "a scratch file is removed if its process has ended, not if another host or container may have it",
  async () => {
    const directory = Deno.makeTempDirSync({ prefix: "xenblk-scratch-" });
    try {
      const own = await make(directory);
      const mark = /xenblk-export-(.*)_/.exec(own.path)?.[1] ?? "";
      const [place, pid, start] = mark.split(".");
      assert(place !== undefined && start !== undefined, own.path);
      assertEquals(pid, `${Deno.pid}`);
      const put = (mark: string, ageMs = 0): string => {
        const name = `xenblk-export-${mark}_${crypto.randomUUID()}`;
        Deno.writeTextFileSync(`${directory}/${name}`, "");
        const then = new Date(Date.now() - ageMs);
        Deno.utimeSync(`${directory}/${name}`, then, then);
        return name;
      };
      const kept = [
        own.path.slice(directory.length + 1),
        put(mark, 2 * HOUR_MS), // its age says nothing here
        put(`${place}1.${pid}.${start}`), // another namespace
        put(`${place}1.4194999.1`, HOUR_MS / 2),
        put(""), // of a process that could not know itself
      ];
      put(`${place}.4194999.${start}`); // no such process
      put(`${place}.${pid}.1${start}`); // its number was given to another one
      put(`${place}1.${pid}.${start}`, 2 * HOUR_MS);
      put("", 2 * HOUR_MS);
      const next = await make(directory);
      await removeScratch(next);
      assertEquals([...Deno.readDirSync(directory)].map(({ name }) => name).sort(), kept.sort());
    } finally {
      Deno.removeSync(directory, { recursive: true });
    }
  },
);
