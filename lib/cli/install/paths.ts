/**
 * Paths as text, and the options that name places.
 */

import { flag, optional, type OptionTable, path } from "../options.ts";

/** The folder of a path; of a folder that ends with a slash, itself without it. */
export function dirname(path: string): string {
  return path.slice(0, path.lastIndexOf("/"));
}

const DIRECTORY = path("DIRECTORY", "Change the system below this folder, such as the root of an image, not this host");

/** Options of both verbs. */
export const PLACE_OPTIONS = {
  "root": optional({ ...DIRECTORY, allowed: "an absolute path", parse: absolute }, "this host"),
  "dry-run": flag("Show what would be done, and do nothing"),
} as const satisfies OptionTable;

/** An absolute path without a slash at its end; `/` becomes the empty text. */
export function absolute(text: string): string | undefined {
  return text.startsWith("/") && !text.split("/").includes("..") ? text.replace(/\/+$/, "") : undefined;
}
