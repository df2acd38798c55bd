/**
 * The contract that every disk keeps, as a suite that anybody can run on an engine, a filter or a disk of their own: one
 * call registers a test for each rule. It uses the public interfaces alone ({@linkcode Disk}, IoChannel), and opens
 * channels as a reactor does.
 */

import { XenblkError } from "../errors.ts";
import { DATA_RULES } from "./contract_data.ts";
import { DISK_RULES } from "./contract_disk.ts";
import { type ContractFacts, type ContractRule, type DiskTraits, PROTOCOL_RULES } from "./contract_protocol.ts";
import { type ContractStage, StageRig } from "./contract_stage.ts";

/**
 * A kind of disk, its traits, and how a fresh one is made for each test. A rule about a trait is a test where the kind of
 * disk has the trait, and fails if the disk does not.
 */
export interface DiskContract extends DiskTraits {
  /** Begins the name of each test. */
  readonly name: string;
  /** The size of the disks that `open` makes, in bytes: at least 1 MiB, a multiple of 4096. */
  readonly sizeBytes: number;
  /** Makes a fresh disk of zeroes. Each test calls it once, and disposes what it gets. */
  open(options: { readonly readOnly: boolean }): ContractStage | Promise<ContractStage>;
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
 *   discards: true,
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
  const facts: ContractFacts = { ...DEFAULT_TRAITS, ...contract };
  for (const rule of rulesFor(facts)) test(`${name}: ${rule.name}`, () => obey(contract, facts, rule));
}

/** What most disks have. */
const DEFAULT_TRAITS: Required<DiskTraits> = {
  keepsData: true,
  opensReadOnly: true,
  sharesChannels: true,
  discards: false,
  discardsToZeroes: false,
  grows: false,
  cutsPower: false,
};

/** A rule about what another trait does needs data, too. */
function rulesFor(facts: ContractFacts): ContractRule[] {
  const data = facts.keepsData ? DATA_RULES : [];
  return [...DISK_RULES, ...PROTOCOL_RULES, ...data].filter(({ needs, lacks }) =>
    (needs === undefined || facts[needs]) && (lacks === undefined || !facts[lacks])
  );
}

async function obey(contract: DiskContract, facts: ContractFacts, rule: ContractRule): Promise<void> {
  await using rig = new StageRig(await contract.open({ readOnly: rule.readOnly ?? false }));
  await rule.run(rig, facts);
}
