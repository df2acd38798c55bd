/**
 * Jobs as people read them.
 */

import type { JobReport } from "../../jobs/job.ts";
import { formatSize } from "../../sizes.ts";
import { renderTable } from "../table.ts";

/** `40 % of 1.0 GiB`; empty while nothing is known. */
export function progressText({ doneBytes, totalBytes }: JobReport): string {
  if (totalBytes === 0) return "";
  return `${Math.floor(100 * Math.min(1, doneBytes / totalBytes))} % of ${formatSize(totalBytes)}`;
}

/** `job vbd3-5-51712-backup to /b/full.qcow2 running, 40 % of 1.0 GiB`. */
export function jobText(job: JobReport): string {
  const { id, target, state, error, note } = job;
  const toward = target === undefined ? "" : ` to ${target}`;
  const progress = state === "running" ? progressText(job) : "";
  const rest = [progress, note ?? "", error ?? ""].filter((text) => text !== "").map((text) => `, ${text}`);
  return `job ${id}${toward} ${state}${rest.join("")}`;
}

/** All of them as a table; why one failed is on a line of its own. `nameOf`: of a disk's label. */
export function renderJobs(
  jobs: readonly JobReport[],
  nameOf: (device: string) => string,
  headings: boolean,
  columns: number,
): string {
  const rows = jobs.flatMap((job) => {
    const { id, kind, device, state, started, target = "-", error, note } = job;
    const row = [id, nameOf(device), kind, state, progressText(job) || "-", started.replace(/\.\d+Z$/, "Z"), target];
    const text = [note, error].filter((each) => each !== undefined).join("; ");
    return text === "" ? [row] : [row, ["", "", "", "", "", "", text]];
  });
  return renderTable(
    [
      { heading: "JOB" },
      { heading: "DISK", leaveOut: 3 },
      { heading: "KIND", leaveOut: 2 },
      { heading: "STATE" },
      { heading: "DONE", align: "right" },
      { heading: "STARTED", leaveOut: 1 },
      { heading: "TARGET", cut: "start" },
    ],
    rows,
    headings,
    columns,
  );
}
