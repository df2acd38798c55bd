/**
 * The command, killed at a step of an exchange: DIE_AT names the step, DIE_TURN says at which exchange of a disk with two
 * rings, and with DIE_WITH=daemon the storage daemons of the run directory are killed just before.
 */

import { DeviceNodes } from "../../../lib/backend/device_nodes.ts";
import { DeviceResources } from "../../../lib/backend/resources.ts";
import { main } from "../../../lib/cli/main.ts";
import { PlacedQueue } from "../../../lib/dataplane/placed_queue.ts";
import { openNativePlatform } from "../../../native.ts";

/** The steps, in order. */
type Step = "opened" | "releasing" | "released" | "held" | "committed" | "started";

const chosen = Deno.env.get("DIE_AT");
const directory = Deno.env.get("XENBLK_JOURNAL_DIR")!;
const turn = Number(Deno.env.get("DIE_TURN") ?? "1");
/** Exchanges that were committed. */
let committed = 0;
let released = 0;

function reach(step: Step): void {
  if (step === "committed") committed++;
  const isOver = step === "committed" || step === "started";
  if (step !== chosen || committed + (isOver ? 0 : 1) !== turn) return;
  if (Deno.env.get("DIE_WITH") === "daemon") killDaemons();
  Deno.kill(Deno.pid, "SIGKILL");
}

function killDaemons(): void {
  for (const { name } of Deno.readDirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const line = Deno.readTextFileSync(`/proc/${name}/cmdline`);
      if (/^[^\0]*qemu-storage-daemon\0/.test(line) && line.includes(directory)) Deno.kill(Number(name), "SIGKILL");
    } catch { /* it has ended */ }
  }
}

const { openOther } = DeviceResources.prototype;
DeviceResources.prototype.openOther = async function (...args): ReturnType<typeof openOther> {
  const disk = await openOther.apply(this, args);
  reach("opened");
  return disk;
};

const { release, start } = PlacedQueue.prototype;
PlacedQueue.prototype.release = async function (limitMs): Promise<boolean> {
  const done = await release.call(this, limitMs);
  if (done) reach(++released % 2 === 1 ? "releasing" : "released");
  return done;
};

const { nameImage } = DeviceNodes.prototype;
DeviceNodes.prototype.nameImage = function (...args): boolean {
  reach("held");
  const named = nameImage.apply(this, args);
  reach("committed");
  return named;
};

PlacedQueue.prototype.start = function (): void {
  start.call(this);
  reach("started");
};

Deno.exit(await main(Deno.args, { openNativePlatform }, "0.0.0"));
