/**
 * What tests need, re-exports only: `xenblk/testing`. {@linkcode diskContract} tests an engine, a filter or a disk of
 * one's own by the rules that every disk keeps.
 *
 * Importing this opens nothing and needs no permission.
 *
 * @module
 */

export { type DiskContract, diskContract } from "./lib/testing/contract.ts";
export type { ContractStage } from "./lib/testing/contract_stage.ts";
export type { ChannelPlace } from "./lib/storage/channel.ts";
