/**
 * The list of all verbs. A verb's file is loaded only when the verb runs, so `--help` loads nothing of the backend.
 */

import type { VerbSummary } from "./help.ts";
import type { Verb } from "./verb.ts";

/** A verb before it is loaded. */
export interface CatalogEntry extends VerbSummary {
  load(): Promise<Verb>;
}

/** All verbs, in the order of the overview. */
export const CATALOG: readonly CatalogEntry[] = [
  {
    name: "dry-run",
    summary: "Serve an image to a simulated guest and verify every byte; no Xen needed",
    load: async () => (await import("./dry_run/verb.ts")).dryRun,
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
    summary: "Notify a guest that the image of its disk has grown",
    load: async () => (await import("./resize.ts")).resize,
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
    name: "doctor",
    summary: "Check this machine for everything that serving needs; each problem comes with its fix",
    load: async () => (await import("./doctor/verb.ts")).doctor,
  },
  {
    name: "completion",
    summary: "Print a completion script for a shell",
    load: async () => (await import("./completion.ts")).completion,
  },
];
