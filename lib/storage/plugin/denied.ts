/**
 * What to do about an error of Deno's permissions in a plugin's process: its own text names an option of `deno`, which the
 * operator does not start.
 */

import { shellWord } from "../../shell_word.ts";
import { readPermission } from "./settings.ts";

/** Deno's text: the kind of access, and to what. */
const DENIED = /\bRequires (\w+) access(?: to (?:"([^"]*)"|<\w+>))?(, run again with the --allow-\w+ flag)/;

/** An access that a plugin was denied. */
export interface DeniedAccess {
  /** The message without Deno's advice. */
  readonly message: string;
  /** What to do, as an imperative clause. */
  readonly remedy: string;
}

/** Undefined if the message is not about permissions. */
export function deniedAccess(message: string): DeniedAccess | undefined {
  const denied = DENIED.exec(message);
  if (denied === null) return undefined;
  const [, kind, what, advice] = denied;
  return { message: message.replace(advice!, ""), remedy: remedyFor(kind!, what) };
}

function remedyFor(kind: string, what: string | undefined): string {
  const permission = readPermission(what === undefined ? kind : `${kind}=${what}`);
  if (permission !== undefined) return `allow it with --plugin-allow ${shellWord(permission)}`;
  // Deno's rule for files below /dev, /proc and /sys, also /dev/shm.
  if (kind === "all") return "use a file elsewhere: for this one Deno asks for permissions that a plugin cannot have";
  return "have the plugin do without: it cannot run programs or call native code";
}
