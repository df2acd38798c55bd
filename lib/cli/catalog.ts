/**
 * The verbs that there are. Each is loaded only when it is asked for, so that `--help` loads nothing of the backend.
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
    summary: "Give a running guest a disk and serve it until told to end",
    load: async () => (await import("./attach.ts")).attach,
  },
  {
    name: "detach",
    summary: "Take a disk away from a guest",
    load: async () => (await import("./detach.ts")).detach,
  },
  {
    name: "resize",
    summary: "Tell a guest that its disk's image has grown",
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
    summary: "Check what this machine has for serving disks, each gap with its fix",
    load: async () => (await import("./doctor/verb.ts")).doctor,
  },
  {
    name: "completion",
    summary: "Print a completion script for a shell",
    load: async () => (await import("./completion.ts")).completion,
  },
];
