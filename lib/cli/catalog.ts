/**
 * Which verbs there are, each loaded only when it is asked for, so that `--help` loads none of the backend. It must
 * not know how they are run.
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
    name: "doctor",
    summary: "Check what this machine has for serving disks, each gap with its fix",
    load: async () => (await import("./doctor.ts")).doctor,
  },
  {
    name: "completion",
    summary: "Print a completion script for a shell",
    load: async () => (await import("./completion.ts")).completion,
  },
];
