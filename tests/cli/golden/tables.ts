/**
 * Tables with invented figures, for verbs whose own depend on the machine: here only how they are laid out is shown.
 */

import type { Finding } from "../../../lib/cli/doctor/checks.ts";
import { renderFindings } from "../../../lib/cli/doctor/verb.ts";
import { type DryRunResult, type PhaseResult, renderResult } from "../../../lib/cli/dry_run/report.ts";

const FINDINGS: readonly Finding[] = [
  { check: "permission read", standing: "ok", detail: "granted" },
  {
    check: "hypervisor",
    standing: "fail",
    detail: "this kernel does not run under Xen: there is no /sys/hypervisor/type",
    fix: "boot under Xen; `xenblk dry-run` needs none of this",
  },
  { check: "io_uring", standing: "ok", detail: "can be used" },
  {
    check: "journal vbd3-1-51712",
    standing: "warn",
    detail: "3 requests of xvda of web (domain 1) that no process has answered",
    fix: "start `xenblk serve --kind vbd3`, which carries them out and answers them",
  },
];

const PHASE: PhaseResult = {
  name: "random",
  requests: 20_000,
  bytes: 450e6,
  elapsedMs: 1000,
  mbPerSecond: 450,
  iops: 20_000,
  latencyUs: { p50: 1200, p90: 2100, p99: 3900, p999: 10_400 },
  verifiedSectors: 431_000,
  errors: 0,
};

const DRY_RUN: DryRunResult = {
  image: "raw:/srv/images/web.img",
  sizeBytes: 64 * 2 ** 20,
  guests: 2,
  abi: "x86_64-abi",
  grants: "copy",
  seed: 1,
  interrupted: false,
  phases: [PHASE, { ...PHASE, name: "read back", requests: 512 }],
  imageSectorsVerified: 131_072,
  fault: undefined,
};

/** A table of each verb, for a terminal of so many columns. */
export const TABLES: Readonly<Record<string, (columns: number) => string>> = {
  "doctor": (columns) => renderFindings(FINDINGS, true, columns),
  "dry-run": (columns) => renderResult(DRY_RUN, columns),
};
