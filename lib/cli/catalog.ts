/**
 * The list of all verbs. A verb's file is loaded only when the verb runs, so `--help` loads nothing of the backend.
 */

import type { VerbSummary } from "./help.ts";
import type { Verb } from "./verb.ts";

/** A verb before it is loaded. */
export interface CatalogEntry extends VerbSummary {
  load(): Promise<Verb>;
}

/** The verbs of two words that begin with this one: `image create`, `image info`... */
export function verbsOf(group: string): CatalogEntry[] {
  return CATALOG.filter(({ name }) => name.startsWith(`${group} `));
}

/** All verbs, in the order of the overview. */
export const CATALOG: readonly CatalogEntry[] = [
  {
    name: "dry-run",
    summary: "Serve an image to a simulated guest and verify every byte; no Xen needed",
    load: async () => (await import("./dry_run/verb.ts")).dryRun,
  },
  {
    name: "replay",
    summary: "Replay a recorded trace on an image, or compare two; no Xen needed",
    load: async () => (await import("./replay/verb.ts")).replay,
  },
  {
    name: "serve",
    summary: "Serve devices that a toolstack wrote: all of a kind, or one",
    load: async () => (await import("./serve.ts")).serve,
  },
  {
    name: "attach",
    summary: "Attach a disk to a running guest and serve it until INT, TERM or detach",
    load: async () => (await import("./attach.ts")).attach,
  },
  {
    name: "detach",
    summary: "Detach a disk from a guest",
    load: async () => (await import("./detach.ts")).detach,
  },
  {
    name: "resize",
    summary: "Make a disk larger while its guest uses it",
    load: async () => (await import("./resize.ts")).resize,
  },
  {
    name: "swap",
    summary: "Give a disk another image while its guest uses it",
    load: async () => (await import("./swap.ts")).swap,
  },
  {
    name: "mirror",
    summary: "Move a disk to another image while its guest uses it",
    load: async () => (await import("./mirror.ts")).mirror,
  },
  {
    name: "limit",
    summary: "Show or change the limits of a disk while its guest uses it",
    load: async () => (await import("./limit.ts")).limit,
  },
  {
    name: "weight",
    summary: "Show or change a disk's share of its thread while its guest uses it",
    load: async () => (await import("./weight.ts")).weight,
  },
  {
    name: "cd-eject",
    summary: "Take the disc out of a guest's CD-ROM drive",
    load: async () => (await import("./disc.ts")).cdEject,
  },
  {
    name: "cd-insert",
    summary: "Put a disc into a guest's CD-ROM drive",
    load: async () => (await import("./disc.ts")).cdInsert,
  },
  {
    name: "export",
    summary: "Show a disk at one instant over NBD, read-only, while its guest goes on",
    load: async () => (await import("./export.ts")).exportDisk,
  },
  {
    name: "list",
    summary: "Show the disks of a guest, or of all guests",
    load: async () => (await import("./list.ts")).list,
  },
  {
    name: "show",
    summary: "Show one disk in detail",
    load: async () => (await import("./show.ts")).show,
  },
  {
    name: "top",
    summary: "Show what live disks do, as iostat -x does",
    load: async () => (await import("./top/verb.ts")).top,
  },
  {
    name: "image create",
    summary: "Create an image",
    load: async () => (await import("./image/create.ts")).create,
  },
  {
    name: "image info",
    summary: "Describe an image: format, sizes, backing image, snapshots, users",
    load: async () => (await import("./image/info.ts")).info,
  },
  {
    name: "image convert",
    summary: "Copy an image into a new one of another format",
    load: async () => (await import("./image/convert.ts")).convert,
  },
  {
    name: "image check",
    summary: "Check an image's metadata, and repair it",
    load: async () => (await import("./image/check.ts")).check,
  },
  {
    name: "image map",
    summary: "Show which ranges of an image hold data, and where",
    load: async () => (await import("./image/map.ts")).map,
  },
  {
    name: "backup verify",
    summary: "Check a backup and all that it is based on",
    load: async () => (await import("./backup/verify.ts")).verifyBackup,
  },
  {
    name: "backup",
    summary: "Back up a disk while its guest uses it, in full or what has changed",
    load: async () => (await import("./backup/verb.ts")).backup,
  },
  {
    name: "job list",
    summary: "Show the jobs of live disks: backups and the like, and how far they are",
    load: async () => (await import("./job/list.ts")).listJobs,
  },
  {
    name: "job wait",
    summary: "Show how far a job of a live disk is until it is over",
    load: async () => (await import("./job/wait.ts")).waitForJob,
  },
  {
    name: "job cancel",
    summary: "End a job of a live disk",
    load: async () => (await import("./job/cancel.ts")).cancelJob,
  },
  {
    name: "snapshot create",
    summary: "Take a snapshot of disks while their guest uses them, all at one instant",
    load: async () => (await import("./snapshot/create.ts")).create,
  },
  {
    name: "snapshot list",
    summary: "Show the snapshots of a disk",
    load: async () => (await import("./snapshot/list.ts")).list,
  },
  {
    name: "snapshot commit",
    summary: "Merge snapshots of a disk into the image below, while its guest uses it",
    load: async () => (await import("./snapshot/commit.ts")).commit,
  },
  {
    name: "snapshot delete",
    summary: "Give up one snapshot of a disk and keep the others, while its guest uses it",
    load: async () => (await import("./snapshot/delete.ts")).remove,
  },
  {
    name: "snapshot revert",
    summary: "Go back to a snapshot: give up what was written since, of a disk that no guest has",
    load: async () => (await import("./snapshot/revert.ts")).revert,
  },
  {
    name: "config check",
    summary: "Check a configuration file, and show all of its faults",
    load: async () => (await import("./config/check.ts")).check,
  },
  {
    name: "config show",
    summary: "Show what holds for serve, or for one disk, and where each value comes from",
    load: async () => (await import("./config/show.ts")).showConfig,
  },
  {
    name: "doctor",
    summary: "Check this machine for everything that serving needs; each problem comes with its fix",
    load: async () => (await import("./doctor/verb.ts")).doctor,
  },
  {
    name: "events",
    summary: "Follow what happens to the disks of all serving processes",
    load: async () => (await import("./events.ts")).events,
  },
  {
    name: "log-level",
    summary: "Show or change how much serving processes log",
    load: async () => (await import("./log_level.ts")).logLevel,
  },
  {
    name: "install",
    summary: "Install this copy of xenblk as a service of the host",
    load: async () => (await import("./install/install.ts")).install,
  },
  {
    name: "uninstall",
    summary: "Remove what `xenblk install` has written",
    load: async () => (await import("./install/uninstall.ts")).uninstall,
  },
  {
    name: "completion",
    summary: "Print a completion script for a shell",
    load: async () => (await import("./completion.ts")).completion,
  },
];
