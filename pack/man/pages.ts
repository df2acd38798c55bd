/**
 * The man pages, made from the verbs' own tables like `--help`: xenblk(1), and xenblk-VERB(1) for each verb.
 */

import { COMMON_OPTIONS, optionNames } from "../../lib/cli/args.ts";
import { CATALOG } from "../../lib/cli/catalog.ts";
import { ANY_TEXT, type Option, type OptionTable } from "../../lib/cli/options.ts";
import type { VerbFace } from "../../lib/cli/verb.ts";
import { ENVIRONMENT, EXIT_STATUS, type Fact, FILES } from "./facts.ts";
import { bold, italic, section, sentences, tagged, title, verbatim } from "./roff.ts";

/** What is printed at the foot of each page. */
export interface Imprint {
  readonly version: string;
  /** YYYY-MM-DD. */
  readonly date: string;
}

const OVERVIEW = [
  "xenblk serves disk images to Xen guests through the blkif ring protocol. It is a backend like qdisk, blkback and tapdisk: the guest needs no driver but its own.",
  "A toolstack such as xl writes the nodes of a disk into xenstore, and one process of xenblk serve serves all disks of a kind. Or xenblk attach writes the nodes itself and serves the disk until it is detached.",
  "A restart of the process does not disturb the guests: they wait, and the next process goes on with the same rings. After a crash it also answers the requests that were in flight.",
];
const SIGNALS =
  "The first INT, TERM or HUP makes a command finish its requests in flight and end. The second ends the process at once.";
const ELSEWHERE = ["xl(1)", "xl.cfg(5)", "xl-disk-configuration(5)", "qemu-img(1)", "systemd.service(5)"];

/** All pages: text by file name. */
export async function manPages(imprint: Imprint): Promise<Map<string, string>> {
  const verbs = await Promise.all(CATALOG.map((entry) => entry.load()));
  const pages = new Map([["xenblk.1", overviewPage(verbs, imprint)]]);
  for (const verb of verbs) pages.set(`${pageName(verb)}.1`, verbPage(verb, imprint));
  return pages;
}

function overviewPage(verbs: readonly VerbFace[], imprint: Imprint): string {
  return page([
    head("xenblk", imprint),
    ...section("NAME", ["xenblk \\- serve disk images to Xen guests"]),
    ...section("SYNOPSIS", [`${bold("xenblk")} ${italic("VERB")} [${italic("OPTIONS")}] [${italic("OPERANDS")}]`]),
    ...section("DESCRIPTION", paragraphs([...OVERVIEW, SIGNALS])),
    ...section("VERBS", verbs.flatMap((verb) => tagged(reference(`${pageName(verb)}(1)`), `${verb.summary}.`))),
    ...section("OPTIONS", options(COMMON_OPTIONS)),
    ...section("EXIT STATUS", facts(EXIT_STATUS)),
    ...section("ENVIRONMENT", facts(ENVIRONMENT)),
    ...section("FILES", facts(FILES)),
    ...section("EXAMPLES", [
      ...example("Try it without Xen: a simulated guest verifies every byte.", "xenblk dry-run"),
      ...example("What is missing on this host, and how to mend it:", "xenblk doctor"),
      ...example("Give a guest a disk, until it is detached:", "xenblk attach web /var/lib/xen/images/web.img xvdb"),
      ...example("Serve the disks that xl makes with backendtype=tap:", "xenblk serve --kind vbd3"),
    ]),
    ...seeAlso(verbs.map((verb) => `${pageName(verb)}(1)`)),
  ]);
}

function verbPage(verb: VerbFace, imprint: Imprint): string {
  const name = pageName(verb);
  const related = verb.name.startsWith("image ") ? ["qemu-img(1)"] : ["xl(1)", "xl-disk-configuration(5)"];
  return page([
    head(name, imprint),
    ...section("NAME", sentences(`${name} - ${withoutCapital(verb.summary)}`)),
    ...section("SYNOPSIS", [synopsis(verb)]),
    ...section("DESCRIPTION", [
      ...sentences(`${verb.summary}.`),
      ...(verb.description === undefined ? [] : [".PP", ...sentences(verb.description)]),
    ]),
    ...section("OPERANDS", verb.operands.flatMap(({ name, help }) => tagged(italic(name), sentence(help)))),
    ...section("OPTIONS", [...options(verb.options), ...options(COMMON_OPTIONS)]),
    ...section("EXIT STATUS", [`See ${reference("xenblk(1)")}.`]),
    ...section("EXAMPLES", verb.examples.length === 0 ? [] : verbatim(verb.examples)),
    ...section(
      "NOTES",
      ["The permissions that Deno must grant, if the command is run from its source:", ".br"].concat(
        sentences(verb.permissions),
      ),
    ),
    ...section("SEE ALSO", [["xenblk(1)", ...related].map(reference).join(",\n")]),
  ]);
}

function page(lines: readonly string[]): string {
  return `${lines.join("\n")}\n`;
}

function head(name: string, { version, date }: Imprint): string {
  return `.\\" Written by deno task man from the verbs' tables.\n${title(name, 1, date, `xenblk ${version}`)}`;
}

/** `xenblk-image-create` for the verb `image create`. */
function pageName({ name }: VerbFace): string {
  return `xenblk-${name.replaceAll(" ", "-")}`;
}

function synopsis(verb: VerbFace): string {
  const operands = verb.operands.map(({ name, required }) => required ? italic(name) : `[${italic(name)}]`);
  return [bold(`xenblk ${verb.name}`), `[${italic("OPTIONS")}]`, ...operands].join(" ");
}

function options(table: OptionTable): string[] {
  return Object.entries(table).flatMap(([name, option]) => {
    const names = optionNames(option, name).map(bold).join(", ");
    const value = option.kind === "flag" ? "" : `=${italic(option.placeholder)}`;
    return tagged(names + value, optionText(option));
  });
}

function optionText(option: Option): string {
  if (option.kind === "flag") return sentence(option.help);
  const says = option.choices === undefined && !option.isPath && option.allowed !== ANY_TEXT;
  const fallback = option.fallbackText === undefined ? "" : ` The default is ${option.fallbackText}.`;
  return sentence(option.help + (says ? `: ${option.allowed}` : "")) + fallback;
}

function facts(list: readonly Fact[]): string[] {
  return list.flatMap(([name, text]) => tagged(bold(name), text));
}

function example(text: string, command: string): string[] {
  return [".PP", ...sentences(text), ...verbatim([command])];
}

function paragraphs(texts: readonly string[]): string[] {
  return texts.flatMap((text, index) => [...(index === 0 ? [] : [".PP"]), ...sentences(text)]);
}

function seeAlso(pages: readonly string[]): string[] {
  return section("SEE ALSO", [[...pages, ...ELSEWHERE].map(reference).join(",\n")]);
}

/** `xl(1)` with its name in bold. */
function reference(name: string): string {
  const [, word = name, number = ""] = /^(.+)(\(\d\))$/.exec(name) ?? [];
  return bold(word) + number;
}

function sentence(text: string): string {
  return /[.?!]$/.test(text) ? text : `${text}.`;
}

/** As the line in NAME begins: no capital, unless the word is one of capitals. */
function withoutCapital(text: string): string {
  return /^[A-Z][A-Z]/.test(text) ? text : text.charAt(0).toLowerCase() + text.slice(1);
}
