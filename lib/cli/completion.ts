/**
 * `xenblk completion SHELL`: completion scripts for bash, zsh and fish, generated from the verbs' option tables.
 */

import { COMMON_OPTIONS, optionNames, usageError } from "./args.ts";
import { COMPLETION_WORDS } from "./completion_words.ts";
import type { Option } from "./options.ts";
import { defineVerb, type VerbFace } from "./verb.ts";

const SHELLS = ["bash", "zsh", "fish"] as const;

/** The verb. */
export const completion = defineVerb({
  name: "completion",
  summary: "Print a completion script for a shell",
  description:
    "The script completes a command named xenblk on the path: verbs, options and their values, file names, and " +
    "from xenstore the names of guests and of their disks.",
  operands: [{ name: "SHELL", help: `one of ${SHELLS.join(", ")}`, required: true }],
  options: {},
  permissions: "none.",
  examples: ["xenblk completion bash > /etc/bash_completion.d/xenblk", "xenblk completion fish | source"],
  async run({ output, loadVerbs }, _options, operands): Promise<number> {
    const shell = SHELLS.find((candidate) => candidate === operands["shell"]);
    if (shell === undefined) {
      throw usageError("completion", `Cannot complete for ${operands["shell"]}: SHELL is one of ${SHELLS.join(", ")}`);
    }
    const verbs = await loadVerbs();
    output.data(shell === "fish" ? fishScript(verbs) : bashScript(verbs, shell === "zsh"));
    return 0;
  },
});

/** All options of a verb, including the common ones. */
function optionsOf(verb: VerbFace): [string, Option][] {
  return Object.entries({ ...verb.options, ...COMMON_OPTIONS });
}

/** The first words of verbs of two words, each with the second words. */
function groupsOf(verbs: readonly VerbFace[]): Map<string, string[]> {
  const groups = new Map<string, string[]>();
  for (const { name } of verbs) {
    const [first, second] = name.split(" ");
    if (second !== undefined) groups.set(first!, [...groups.get(first!) ?? [], second]);
  }
  return groups;
}

/** For bash; zsh runs the same script through its emulation of bash. */
function bashScript(verbs: readonly VerbFace[], forZsh: boolean): string {
  const prologue = forZsh ? ["#compdef xenblk", "autoload -U +X bashcompinit && bashcompinit"] : [];
  const firsts = [...new Set(verbs.map(({ name }) => name.split(" ")[0]))];
  return [
    ...prologue,
    "_xenblk() {",
    '  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" verb="${COMP_WORDS[1]}" words="" IFS',
    "  IFS=$' \\t\\n'",
    "  # The shell splits --option=value at the =, and the = becomes a word.",
    '  if [ "$cur" = "=" ]; then cur=""; fi',
    '  if [ "$prev" = "=" ]; then prev="${COMP_WORDS[COMP_CWORD-2]}"; fi',
    '  if [ "$COMP_CWORD" -gt 2 ]; then',
    '    case "$verb" in',
    `      ${[...groupsOf(verbs).keys()].join("|")}) verb="$verb \${COMP_WORDS[2]}" ;;`,
    "    esac",
    "  fi",
    '  if [ "$COMP_CWORD" -eq 1 ]; then',
    `    words="${[...firsts, "help", "--help", "--version"].join(" ")}"`,
    "  else",
    '    case "$verb $prev" in',
    ...verbs.flatMap(bashChoices),
    ...[...groupsOf(verbs)].map(([group, words]) => `      "${group} ${group}") words="${words.join(" ")}" ;;`),
    `      "help help") words="${firsts.join(" ")}" ;;`,
    `      "completion completion") words="${SHELLS.join(" ")}" ;;`,
    "    esac",
    '    case "$verb $cur" in',
    ...verbs.map((verb) => `      "${verb.name} -"*) words="${bashWords(verb)}" ;;`),
    "    esac",
    "  fi",
    "  # Guests, disks, or file names: only xenblk knows.",
    '  if [ -z "$words" ]; then',
    `    words="$("\${COMP_WORDS[0]}" ${COMPLETION_WORDS} "\${COMP_WORDS[@]:1:$COMP_CWORD}" 2>/dev/null)"`,
    '    if [ "$words" = ":files" ]; then words=""; else compopt +o default 2>/dev/null; fi',
    "  fi",
    '  COMPREPLY=($(compgen -W "$words" -- "$cur"))',
    "}",
    "complete -o default -o nosort -F _xenblk xenblk",
    "",
  ].join("\n");
}

/** A case per option with fixed values: the words are these values. */
function bashChoices(verb: VerbFace): string[] {
  return optionsOf(verb).flatMap(([name, option]) =>
    option.kind === "value" && option.choices !== undefined
      ? [`      "${verb.name} --${name}") words="${option.choices.join(" ")}" ;;`]
      : []
  );
}

function bashWords(verb: VerbFace): string {
  return optionsOf(verb).map(([name]) => `--${name}`).join(" ");
}

function fishScript(verbs: readonly VerbFace[]): string {
  const seen = (word: string): string => `__fish_seen_subcommand_from ${word}`;
  const lines = ["complete -c xenblk -f"];
  for (const [group, words] of groupsOf(verbs)) {
    lines.push(`complete -c xenblk -n __fish_use_subcommand -a ${group} -d ${quote(`The verbs of ${group}`)}`);
    for (const word of words) {
      const { summary } = verbs.find(({ name }) => name === `${group} ${word}`)!;
      const when = `-n '${seen(group)}; and not ${seen(words.join(" "))}'`;
      lines.push(`complete -c xenblk ${when} -a ${word} -d ${quote(summary)}`);
    }
  }
  for (const verb of verbs) {
    const words = verb.name.split(" ");
    if (words.length === 1) {
      lines.push(`complete -c xenblk -n __fish_use_subcommand -a ${verb.name} -d ${quote(verb.summary)}`);
    }
    const when = `-n '${words.map(seen).join("; and ")}'`;
    for (const [name, option] of optionsOf(verb)) {
      const short = optionNames(option, name).length > 1 ? ` -s ${option.short}` : "";
      lines.push(`complete -c xenblk ${when} -l ${name}${short}${fishValue(option)} -d ${quote(option.help)}`);
    }
    if (verb.operands.some(({ isPath }) => isPath)) lines.push(`complete -c xenblk ${when} -F`);
    if (verb.operands.some(({ name }) => name === "DOMAIN")) lines.push(`complete -c xenblk ${when} -a ${FISH_WORDS}`);
    if (verb.name === "completion") lines.push(`complete -c xenblk ${when} -a '${SHELLS.join(" ")}'`);
  }
  return lines.join("\n") + "\n";
}

/** What xenblk knows of guests and disks; the file names are fish's own. */
const FISH_WORDS = `'(xenblk ${COMPLETION_WORDS} (commandline -opc)[2..-1] "" 2>/dev/null | string match -v ":*")'`;

function fishValue(option: Option): string {
  if (option.kind === "flag") return "";
  if (option.choices !== undefined) return ` -x -a '${option.choices.join(" ")}'`;
  return option.isPath ? " -r -F" : " -x";
}

function quote(text: string): string {
  return `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`;
}
