/**
 * Work on the disc of a guest's drive: `xenblk cd-eject` and `cd-insert`, while the guest reads.
 */

import { assert, assertEquals } from "@std/assert";
import type { DomId } from "../../../../lib/hypervisor.ts";
import type { LoadSpec } from "../../../../lib/guest/load_types.ts";
import { frontendPath } from "../../../../lib/xenbus/paths.ts";
import { NativeXen } from "../../harness.ts";
import { qemuImg } from "../../qemu_img.ts";
import { until } from "../../qemu/rig.ts";
import { attach, BackendProcess } from "../backend.ts";
import { GuestProcess } from "../guest.ts";
import { assertClean, DiskFolder, GUEST, received, UNTIL_STOPPED } from "../scenes.ts";
import { Scene } from "./scene.ts";
import { type Outcome, type Point, Work } from "./work.ts";

const MIB = 2048;
/** The guest tells the discs by their sizes, in sectors. */
const SIZES: Readonly<Record<string, number>> = { one: 16 * MIB, two: 24 * MIB };
const READS: Partial<LoadSpec> = {
  area: { firstSector: 0, sectors: 16 * MIB },
  readShare: 1,
  flushEvery: 0,
  barrierEvery: 0,
};

/** A guest with a drive; its discs are images that a storage daemon serves. */
export async function openDrive(): Promise<Scene> {
  await using undo = new AsyncDisposableStack();
  const xen = undo.use(await NativeXen.start());
  await xen.createDomain(GUEST);
  const guest = undo.use(new GuestProcess(xen, GUEST));
  const { path: folder } = undo.use(new DiskFolder());
  for (const [name, sectors] of Object.entries(SIZES)) {
    await qemuImg("create", "-q", "-f", "qcow2", `${folder}/${name}.qcow2`, `${sectors * 512}`);
  }
  const domain = GUEST as DomId;
  const device = await attach(xen, { domain, params: `qcow2:${folder}/one.qcow2`, readOnly: true, cdrom: true });
  const disk = await guest.disk(frontendPath(device));
  const owned = undo.move();
  const stage = { xen, folder, device, disk, [Symbol.asyncDispose]: () => owned.disposeAsync() };
  return await Scene.open(stage, () => owned.use(new BackendProcess(xen, ["serve"])));
}

/** See above. */
export class DiscWork extends Work {
  /** The name of the disc that the drive is to have; undefined: none. */
  #wanted: string | undefined;

  /** Reads of an empty drive fail. */
  override load(): Partial<LoadSpec> {
    return READS;
  }

  protected override async order({ number }: Point): Promise<readonly string[]> {
    const now = await this.#disc();
    this.#wanted = now === "two" ? "one" : now === "one" && number % 4 === 3 ? undefined : "two";
    if (this.#wanted === undefined) return ["cd-eject", `${GUEST}`, "xvda"];
    return ["cd-insert", `${GUEST}`, "xvda", `qcow2:${this.scene.folder}/${this.#wanted}.qcow2`];
  }

  /** The disc that the guest sees, once `params` names it, too. */
  async #disc(): Promise<string | undefined> {
    const found = await until("guest and params see the same disc", async () => {
      const [params, sectors] = [await this.scene.params(), Number(await this.scene.node("sectors"))];
      const name = /(\w+)\.qcow2$/.exec(params)?.[1];
      return (name === undefined ? 0 : SIZES[name]) === sectors ? { name } : undefined;
    }).catch(async (error) => {
      const nodes = [await this.scene.params(), await this.scene.node("sectors")];
      throw new Error(`${error.message}: ${nodes.join(", ")}; ${this.scene.messages}`);
    });
    return found.name;
  }

  override async rest(): Promise<void> {
    const { disk } = this.scene.stage;
    const { errors, errorsByKind, miscompares, protocolErrors, unanswered } = await disk.stopLoad();
    assertEquals([miscompares, protocolErrors, unanswered], [0, 0, 0], this.scene.messages);
    assertEquals(errorsByKind["read -1"] ?? 0, errors, "an empty drive cannot be read");
  }

  override async check(outcome: Outcome): Promise<string> {
    const name = await this.#disc();
    assert(name === undefined || name in SIZES);
    const told = this.assertTold(outcome, name === this.#wanted);
    if (name === undefined) return `${told}, empty`;
    const load = { ...UNTIL_STOPPED, ...READS, requests: 200 };
    assertClean(received(await this.scene.stage.disk.load(load)), this.scene.messages);
    return told;
  }

  override async finish(): Promise<void> {
    await this.scene.finish("qcow2", `${this.scene.folder}/one.qcow2`, false);
  }
}
