/**
 * The contract that every disk keeps, as a suite that anybody can run on an engine, a filter or a disk of their own: one
 * call registers a test for each rule. It uses the public interfaces alone ({@linkcode Disk}, IoChannel), and opens
 * channels as a reactor does.
 */

import { XenblkError } from "../errors.ts";
import { DATA_RULES } from "./contract_data.ts";
import { DISK_RULES } from "./contract_disk.ts";
import { type ContractRule, PROTOCOL_RULES } from "./contract_protocol.ts";
import { type ContractStage, StageRig } from "./contract_stage.ts";

/** A kind of disk, and how a fresh one is made for each test. */
export interface DiskContract {
  /** Begins the name of each test. */
  readonly name: string;
  /** The size of the disks that `open` makes, in bytes: at least 1 MiB, a multiple of 4096. */
  readonly sizeBytes: number;
  /** Makes a fresh disk of zeroes. Each test calls it once, and disposes what it gets. */
  open(options: { readonly readOnly: boolean }): ContractStage | Promise<ContractStage>;
  /** Reads return what was written. False for a disk that discards it. Default true. */
  readonly keepsData?: boolean;
  /** The kind of disk can be opened for reading only. Default true. */
  readonly opensReadOnly?: boolean;
  /** Discarded bytes read as zeroes; else they may hold anything. Default false. */
  readonly discardsToZeroes?: boolean;
  /** Registers a test. Default `Deno.test`. */
  readonly test?: (name: string, run: () => Promise<void>) => unknown;
}

/** The smallest disk that has room for the tests, in bytes. */
const LEAST_BYTES = 1 << 20;

/**
 * Registers a test for each rule that a disk must keep. Throws {@linkcode XenblkError} (`usage`) if the size does not
 * fit. A test fails with an Error that says what is not so.
 *
 * @example
 * ```ts
 * import { openDisk } from "xenblk";
 * import { diskContract } from "xenblk/testing";
 *
 * diskContract({
 *   name: "memory",
 *   sizeBytes: 1 << 20,
 *   open: async ({ readOnly }) => ({
 *     disk: await openDisk({ format: "memory", target: "1M", readOnly, engine: "auto" }),
 *   }),
 * });
 * ```
 */
export function diskContract(contract: DiskContract): void {
  const { name, sizeBytes, test = (title, run): void => Deno.test(title, run) } = contract;
  if (!(sizeBytes >= LEAST_BYTES && sizeBytes % 4096 === 0)) {
    throw new XenblkError(`Cannot test ${name}: its size is ${sizeBytes} bytes`, {
      kind: "usage",
      remedy: "make its disks at least 1 MiB large, in multiples of 4096 bytes",
    });
  }
  for (const rule of rulesFor(contract)) test(`${name}: ${rule.name}`, () => obey(contract, rule));
}

function rulesFor({ keepsData = true, opensReadOnly = true }: DiskContract): ContractRule[] {
  return [...DISK_RULES, ...PROTOCOL_RULES, ...DATA_RULES].filter(({ needsData = false, readOnly = false }) =>
    (keepsData || !needsData) && (opensReadOnly || !readOnly)
  );
}

async function obey(contract: DiskContract, rule: ContractRule): Promise<void> {
  await using rig = new StageRig(await contract.open({ readOnly: rule.readOnly ?? false }));
  await rule.run(rig, contract);
}
