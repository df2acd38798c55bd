/**
 * The library's public face, re-exports only. It serves three uses: a program that attaches disks to guests
 * ({@linkcode attach}), one that serves what a toolstack attaches ({@linkcode startService}), and one that puts the
 * parts together itself, or brings a hypervisor, a data plane or disks of its own. The command is cli.ts. A disk in a few
 * lines of TypeScript is {@linkcode defineDisk}.
 *
 * A service is made of four parts: a {@linkcode Platform} ({@linkcode openNativePlatform}, {@linkcode openPlatform}), an
 * {@linkcode IoPool} that makes file calls, a {@linkcode WorkerDataPlane} that serves rings, and a
 * {@linkcode BackendKind} that follows xenstore and connects devices.
 *
 * Importing this opens nothing and needs no permission.
 *
 * A hypervisor, a disk engine, a filter or an I/O Worker's executor of one's own is a module that a descriptor names:
 * {@linkcode PlatformModule}, {@linkcode DiskModule}, {@linkcode ExecutorModule}.
 *
 * @module
 */

export { attach, openNativePlatform } from "./native.ts";
export type { AttachOptions } from "./lib/attach.ts";
export type { AttachedDisk, DiskEnd } from "./lib/attached_disk.ts";
export type { DiskStats, LatencyUs, OperationStats } from "./lib/disk_stats.ts";
export type { HostPlatform, NativePlatform } from "./lib/host_platform.ts";
export { type CloseResult, type Service, type ServiceOptions, startService } from "./lib/service.ts";

export * from "./lib/errors.ts";
export * from "./lib/hypervisor.ts";
export * from "./lib/units.ts";
export { ERRNO, errnoName, errnoValue } from "./lib/errno.ts";
export { NATIVE_PLATFORM, openPlatform } from "./platform.ts";

export { ABI_NAMES, type AbiName } from "./lib/blkif/abi.ts";
export { type Clock, SYSTEM_CLOCK } from "./lib/clock.ts";
export { formatSize, parseSize } from "./lib/sizes.ts";
export { createLogger, type Logger, type Logging, type LogLevel, SILENT, startLogging } from "./lib/log.ts";

export * from "./lib/storage/disk.ts";
export {
  type DefinedDisk,
  defineDisk,
  type DiskMethods,
  type DiskModuleContext,
  type DiskModuleDefinition,
} from "./lib/storage/plugin/disk_methods.ts";
export { DEFAULT_PLUGIN_SETTINGS, type PluginSettings, type PluginTrouble } from "./lib/storage/plugin/settings.ts";
export type { PluginClient, PluginOptions, PluginProcess } from "./lib/storage/plugin/types.ts";
export { openPluginDisk, type PluginServices } from "./lib/storage/plugin_disk.ts";
export type { VhostClient, VhostDevice, VhostOptions } from "./lib/storage/vhost.ts";
export type { PoolAttachment } from "./lib/storage/pool/attachment.ts";
export { IoPool, type IoPoolLimits, type IoPoolOptions, type PoolDisk } from "./lib/storage/pool/pool.ts";
export { type Executor, OPERATION, type Operation } from "./lib/storage/engine/executor.ts";
export { immediateChannel } from "./lib/storage/engine/immediate.ts";
export { MemoryViews } from "./lib/storage/engine/views.ts";
export type { ExecutorDescriptor, ExecutorModule } from "./lib/storage/pool/executor_module.ts";
export type { ImageFile } from "./lib/storage/image/file.ts";
export { ImageBusyError, type ImageLocks, type ImageUse, ProcessImageLocks } from "./lib/storage/image/lock.ts";
export type {
  DiscardRoute,
  FileMedium,
  HostUse,
  ImageChannels,
  ImageOptions,
  NativeFiles,
  OpenedImage,
  TransferRoute,
  UringAttachment,
  UringRoutes,
} from "./lib/storage/image/medium.ts";
export type { DescriptorLease } from "./lib/storage/image/descriptors.ts";
export { type OpenContext, openDisk } from "./lib/storage/open.ts";
export * from "./lib/storage/filter/filter.ts";
export { HoldingChannel } from "./lib/storage/filter/holding.ts";
export { LiveValues } from "./lib/storage/filter/live.ts";
export {
  type BuiltInFilter,
  chooseFilters,
  type ChosenFilter,
  type FilterChoice,
  type OutsideFilter,
} from "./lib/storage/filter/spec.ts";
export { filterDisk, type LiveFilter } from "./lib/storage/filter/stack.ts";
export type {
  CowOptions,
  DelayOptions,
  ErrorOptions,
  FilterName,
  FilterOptions,
  HangOptions,
  LogOptions,
  ThrottleOptions,
} from "./lib/storage/filter/table.ts";
export type { ChoiceOptions } from "./lib/storage/filter/choice.ts";
export type { ServingContext } from "./lib/storage/serving.ts";
export { type ImageSpec, parseImage } from "./lib/storage/image/spec.ts";

export * from "./lib/dataplane/types.ts";
export { createStats, type QueueStats, STAT } from "./lib/dataplane/stats.ts";
export { WorkerDataPlane, type WorkerDataPlaneOptions } from "./lib/dataplane/worker_dataplane.ts";
export type { MoveResult } from "./lib/dataplane/placed_queue.ts";
export type { ReactorThreadOptions } from "./lib/dataplane/reactor_thread.ts";
export type { Weight } from "./lib/dataplane/fairness.ts";
export type { Exchanged, ExchangeRequest, ExchangingDevice, HeldDevice } from "./lib/backend/exchange.ts";
export type { ChosenLive } from "./lib/backend/live_settings.ts";
export type { AllLimits } from "./lib/storage/filter/limits.ts";
export type { ThrottleMemory, ThrottleState } from "./lib/storage/filter/budget.ts";

export { BackendKind, type BackendKindOptions, ownDomain } from "./lib/backend/kind.ts";
export type { CloseOptions } from "./lib/backend/close_options.ts";
export type { ExcludingDiskFinder } from "./lib/toolstack/sharing.ts";
export type { Exclusion, ImageQuery, QueriedFile } from "./lib/toolstack/sharing.ts";
export type { GrantChoice } from "./lib/backend/grant_choice.ts";
export type { DiskIdentity, SettingsRule } from "./lib/backend/disk_identity.ts";
export { DEFAULT_SETTINGS, type DeviceSettings } from "./lib/backend/settings.ts";
export type { ExpectedDevice } from "./lib/backend/claim.ts";
export type { DeviceReport, DeviceStatus, StuckDevice } from "./lib/backend/status.ts";
export { diskFigures } from "./lib/backend/figures.ts";
export type { DiskFigures, LatencyHistogram } from "./lib/figures/figures.ts";

export { attachDevice, type AttachRequest, removeDevice, waitForConnected } from "./lib/toolstack/attach.ts";
export { detachDevice, type DetachOptions, findDevice } from "./lib/toolstack/detach.ts";
export { type DomainInfo, listDomains, resolveDomain } from "./lib/toolstack/domains.ts";
export { type DeviceListing, listDevices } from "./lib/toolstack/list.ts";
export { type Resized, resizeDevice, type ResizeOptions } from "./lib/toolstack/resize.ts";
export type { WaitOptions } from "./lib/toolstack/wait.ts";
export { type DeviceAddress, parseBackendPath } from "./lib/xenbus/paths.ts";
export { formatVdev, parseVdev } from "./lib/xenbus/vdev.ts";
