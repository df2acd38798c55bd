/**
 * `xenblk completion-words WORD...`: the operands that could stand at the cursor, for completion scripts: guests, and the
 * disks of a guest, from xenstore. It is not in the help, and never prints an error: the user is in the middle of a line.
 */

import type { DomId, XenstoreOperations } from "../hypervisor.ts";
import { listDomains } from "../toolstack/domains.ts";
import { listAddresses, resolveGuest } from "../toolstack/list.ts";
import { formatVdev } from "../xenbus/vdev.ts";
import { COMMON_OPTIONS } from "./args.ts";
import type { Option } from "./options.ts";
import type { Host, VerbFace } from "./verb.ts";

/** The first word of the command line. */
export const COMPLETION_WORDS = "completion-words";

/** Stands for all file names. */
const FILES = ":files";
/** A shell may evaluate the words that it offers, so one with other characters is left out. */
const HARMLESS = /^[\w.+:@-]+$/;

/**
 * One word a line; `:files` where file names complete. Empty if nothing is known, or xenstored does not answer. The last of
 * the words is the one that is being typed; what it begins with is left to the shell.
 */
export async function completionWords(
  words: readonly string[],
  verbs: readonly VerbFace[],
  host: Host,
): Promise<string> {
  try {
    return (await candidates(words, verbs, host)).filter((word) => HARMLESS.test(word)).map((word) => `${word}\n`).join(
      "",
    );
  } catch {
    return ""; // a message would be written into the line that the user types
  }
}

async function candidates(
  words: readonly string[],
  verbs: readonly VerbFace[],
  host: Host,
): Promise<string[]> {
  const before = words.slice(0, -1);
  const verb = verbs.find(({ name }) => `${before.join(" ")} `.startsWith(`${name} `));
  if (verb === undefined) return [];
  const { given, valueOf } = splitWords(verb, before.slice(verb.name.split(" ").length));
  if (valueOf !== undefined) return valueOf.kind === "value" && valueOf.isPath === true ? [FILES] : [];
  const operand = verb.operands[given.length];
  if (operand?.isPath) return [FILES];
  if (operand?.name === "JOB") return await (await import("./job/host_jobs.ts")).jobNames();
  if (operand?.name !== "DOMAIN" && operand?.name !== "VDEV") return [];
  using store = (await host.openNativePlatform()).openXenstore();
  if (operand.name === "DOMAIN") return domainNames(store);
  const domain = given[verb.operands.findIndex(({ name }) => name === "DOMAIN")];
  // After an image, VDEV is a name that the guest has not yet.
  const isNew = verb.operands.slice(0, given.length).some(({ name }) => name === "IMAGE");
  return domain === undefined || isNew ? [] : diskNames(store, resolveGuest(store, domain).domain);
}

/** The operands among the words, and the option that the next word is the value of, if it is one. */
function splitWords(
  verb: VerbFace,
  words: readonly string[],
): { readonly given: string[]; readonly valueOf: Option | undefined } {
  const options = Object.entries<Option>({ ...verb.options, ...COMMON_OPTIONS });
  const given: string[] = [];
  let valueOf: Option | undefined;
  for (const word of words) {
    // bash makes three words of --option=value.
    if (word === "=") continue;
    const isValue = valueOf !== undefined;
    valueOf = undefined;
    if (isValue) continue;
    if (!word.startsWith("-")) given.push(word);
    else {
      const [, option] = options.find(([name, { short }]) => word === `--${name}` || word === `-${short}`) ?? [];
      if (option?.kind === "value") valueOf = option;
    }
  }
  return { given, valueOf };
}

/** Guests by name, or by domid if they have none. */
function domainNames(store: XenstoreOperations): string[] {
  return listDomains(store).filter(({ domain }) => domain !== 0).map(({ domain, name }) => name ?? String(domain));
}

function diskNames(store: XenstoreOperations, guest: DomId): string[] {
  return listAddresses(store).filter(({ frontendDomain }) => frontendDomain === guest)
    .map(({ vdev }) => formatVdev(vdev));
}
