/**
 * The testing kit, re-exports only: a simulated host with guests ({@linkcode testHost}), on which the real backend serves
 * real images, without Xen. For tests of images, disks and frontends, in CI or anywhere. {@linkcode diskContract}
 * tests an engine, a filter or a disk of one's own by the rules that every disk keeps.
 *
 * Importing this opens nothing and needs no permission.
 *
 * @module
 */

export { type Holdings, TestHost, testHost, type TestHostOptions, type TestStore } from "./lib/testing/host.ts";
export {
  type DiskOptions,
  Guest,
  type GuestAbi,
  type GuestOptions,
  type GuestParts,
  type ToolstackDisk,
} from "./lib/testing/guest.ts";
export { type DiskContract, diskContract } from "./lib/testing/contract.ts";
export type { DiskTraits } from "./lib/testing/contract_protocol.ts";
export type { ContractStage } from "./lib/testing/contract_stage.ts";
export { type PowerLoss, powerLossFilter, type PowerLossOptions } from "./lib/testing/power_loss.ts";
export type { PowerCut, SectorRange } from "./lib/testing/volatile_cache.ts";
export { Drive, DriveError, type DriveOptions, type DriveParts } from "./lib/testing/drive.ts";
export type { LoadCounts, LoadOptions } from "./lib/testing/drive_load.ts";
export type { ReplayOptions, ReplayResult } from "./lib/testing/drive_replay.ts";
export type { RawRequest, RawResponse, RawSegment } from "./lib/testing/ring_client.ts";
export { HOSTILE_REQUESTS, type HostileRequest } from "./lib/testing/hostile.ts";
export { TestService, type TestServiceOptions } from "./lib/testing/service.ts";
export { FAULT_NAMES, type FaultName, type FaultOptions, type InjectedFault } from "./lib/testing/injected_faults.ts";
export { SimulatedClock } from "./lib/testing/clock.ts";
export {
  assertClean,
  assertImageEquals,
  assertIoError,
  AssertionError,
  assertNoLeak,
} from "./lib/testing/assertions.ts";
export { OPERATIONS } from "./lib/testing/operations.ts";

export type { AbiName } from "./lib/blkif/abi.ts";
export type { DiskFacts } from "./lib/guest/disk_facts.ts";
export type { Baseline, DiskModel, Miscompare } from "./lib/guest/disk_model.ts";
export type { LoadOutcome, LoadSpec } from "./lib/guest/load_types.ts";
export type { OperationOutcome, ReplayError, ReplayOutcome, Skipped, SkipReason } from "./lib/guest/replay_types.ts";
export type { TraceFaults } from "./lib/trace/reader.ts";
export type { TraceOperation } from "./lib/trace/record.ts";
export type { LatencySummary } from "./lib/histogram.ts";
export type { MachineUsage } from "./lib/sim/machine.ts";
export type { ChannelPlace } from "./lib/storage/channel.ts";
export type { HostUse } from "./lib/testing/idle_end.ts";
