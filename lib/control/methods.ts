/**
 * The methods of the control socket that every serving process has, over its devices and its log.
 */

import { diskFigures } from "../backend/figures.ts";
import type { DeviceReport } from "../backend/status.ts";
import { XenblkError } from "../errors.ts";
import type { HostPlatform } from "../host_platform.ts";
import type { DomId } from "../hypervisor.ts";
import type { LazyJobs } from "../jobs/door.ts";
import type { Visits } from "../jobs/visits.ts";
import { LOG_LEVELS, type Logging } from "../log.ts";
import type { Service } from "../service.ts";
import { type DeviceAddress, parseBackendPath } from "../xenbus/paths.ts";
import type { Call, Handler } from "./connection.ts";
import { readParams, TEXT, word } from "./params.ts";
import { type Method, type Methods, PROTOCOL_VERSION, type ServingVerb } from "./protocol.ts";

/** A process, as its control socket shows it. */
export interface ControlledProcess {
  readonly platform: HostPlatform;
  readonly service: Service;
  readonly verb: ServingVerb;
  readonly kind: string;
  /** All devices of the kind are served here, so this process can attach more. */
  readonly attaches: boolean;
  /** Of xenblk. */
  readonly version: string;
  readonly logging: Logging;
  /** Absent: its disks have none. */
  readonly jobs?: LazyJobs;
  /** Absent: a disk that has no storage daemon gets none. */
  readonly visits?: Visits;
}

/** The handlers by method; those that a process does not have are absent. */
export type Handlers = {
  readonly [M in Method]?: (
    params: Readonly<Record<string, unknown>>,
    call: Call,
  ) => Methods[M]["result"] | Promise<Methods[M]["result"]>;
};

/** The methods that ask, and those that change nothing of a disk. */
export function basicMethods(process: ControlledProcess): Handlers & Readonly<Record<string, Handler>> {
  const { service, verb, kind, attaches, version, logging } = process;
  const level = word(LOG_LEVELS);
  return {
    hello: (params) => {
      readParams("hello", {}, params);
      return { protocol: PROTOCOL_VERSION, pid: Deno.pid, version, verb, kind, attaches };
    },
    ping: (params) => readParams("ping", {}, params),
    status: (params) => {
      const { device } = readParams("status", { device: TEXT }, params);
      return { devices: ofLabel(service.devices.reports(), device) };
    },
    stats: (params) => {
      const { device } = readParams("stats", { device: TEXT }, params);
      const devices = ofLabel(service.devices.status(), device);
      return { devices: devices.map((status) => ({ device: status.label, figures: diskFigures(status) })) };
    },
    subscribe: (params, call): { readonly devices: readonly DeviceReport[] } => {
      const { log } = readParams("subscribe", { log: level }, params);
      call.subscribe(log);
      return { devices: service.devices.reports() };
    },
    logLevel: (params) => {
      const wanted = readParams("logLevel", { level }, params).level;
      if (wanted !== undefined) logging.level = wanted;
      return { level: logging.level };
    },
  };
}

/** The device of that label, or all. Throws {@linkcode XenblkError} (`not-found`). */
function ofLabel<D extends DeviceReport>(all: D[], label: string | undefined): D[] {
  if (label === undefined) return all;
  const found = all.filter((status) => status.label === label);
  if (found.length > 0) return found;
  throw new XenblkError(`Cannot find device ${label}: this process does not serve it`, {
    kind: "not-found",
    remedy: "see the method status",
  });
}

/** The address of the device with that label. Throws {@linkcode XenblkError} (`not-found`). */
export function addressOf(service: Service, label: string): DeviceAddress {
  return parseBackendPath(ofLabel(service.devices.reports(), label)[0]!.backendPath, 0 as DomId);
}
