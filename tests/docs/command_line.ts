/**
 * Checks a command line of xenblk against the tables of its verbs, without running it: the verb and its options exist,
 * and the values are allowed.
 */

import { parseArguments } from "../../lib/cli/args.ts";
import { CATALOG } from "../../lib/cli/catalog.ts";
import { errorText } from "../../lib/errors.ts";

/** The ways in which documents call the command. */
const CALLS = [
  /^(sudo )?xenblk /,
  /^(npx -y deno@[\d.]+|deno) run -A cli\.ts /,
  /^npx (-y )?xenblk /,
];

/** The arguments, if these words are a command of xenblk, with or without variables of its environment. */
export function argumentsOf(all: readonly string[]): string[] | undefined {
  const words = all.slice(all.findIndex((word) => !/^[A-Z_]+=/.test(word)));
  const line = `${words.join(" ")} `;
  const call = CALLS.map((pattern) => pattern.exec(line)?.[0]).find((match) => match !== undefined);
  return call === undefined ? undefined : words.slice(call.trim().split(" ").length);
}

/** What is wrong with the arguments of a command; undefined if nothing is. A `mention` may leave out operands. */
export async function faultOf(args: readonly string[], { mention = false } = {}): Promise<string | undefined> {
  if (["help", "--help", "-h", "--version", "-V"].includes(args[0] ?? "")) return undefined;
  const [one, two] = [args.slice(0, 1).join(" "), args.slice(0, 2).join(" ")];
  const entry = CATALOG.find(({ name }) => name === two) ?? CATALOG.find(({ name }) => name === one);
  if (entry === undefined) return `Cannot run ${JSON.stringify(one)}: there is no such verb`;
  const rest = args.slice(entry.name.split(" ").length);
  try {
    parseArguments(await entry.load(), mention ? [...rest, "--help"] : rest);
    return undefined;
  } catch (error) {
    return errorText(error);
  }
}
