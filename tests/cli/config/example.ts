/**
 * Writes contrib/config.toml, and the same into docs/config.md, from the tables of options: `deno task docs`.
 * A test compares the files with them.
 */

import { SERVE_KEYS } from "../../../lib/cli/config/content.ts";
import { DISK_OPTIONS } from "../../../lib/cli/device_options.ts";
import { ANY_TEXT, type Option } from "../../../lib/cli/options.ts";
import { ROOT } from "../../house/source.ts";

/** Path of the example, in the checkout. */
export const EXAMPLE = "contrib/config.toml";
/** Path of the page that shows it. */
export const PAGE = "docs/config.md";

const WIDTH = 100;

const HEAD = `# The configuration of xenblk: /etc/xenblk/config.toml, or what --config names.
#
# A line that begins with "#" and a key is a setting with its default; remove the "#" and change the
# value to set it. A value in <...> is what the key takes: it has no fixed default. The keys are the
# options of \`xenblk serve\`, and the command line takes precedence over this file.
# \`xenblk config check\` checks the file, and \`xenblk config show\` shows what holds.

# Defaults of serve. attach uses those about disks, kind and timeout.
[serve]
`;

const DISK = `
# Settings of single disks. A disk is meant if all of domain, vdev, image and kind that are there
# match; each takes a value or a list of values. All [[disk]] that match apply, in this order: of two
# that set the same key, the later one counts. Beside these four, a [[disk]] takes the keys
# `;

const RULE = `
#[[disk]]
# The guest's name, in which * is any text, or its UUID or domid.
#domain = "web-*"
# The virtual device.
#vdev = "xvda"
# The image as the toolstack names it, or its path: * is any text without a slash, ** any text.
#image = "/srv/images/**"
# The backend kind.
#kind = "vbd3"
#cache = "none"
#filter = ["throttle,iops=500"]
`;

/** The whole file. */
export function example(): string {
  const keys = Object.entries(SERVE_KEYS).map(([name, option]) =>
    `${comment(described(option))}\n${setting(name, option)}`
  );
  const names = `${Object.keys(DISK_OPTIONS).join(", ")}.`;
  return `${HEAD}\n${keys.join("\n\n")}\n${DISK}${comment(names).replace(/^# /, "")}${RULE}`;
}

/** The page with the file's text in place of what it shows. */
export function page(present: string): string {
  return present.replace(/(?<=^```toml keys\n)[^]*?(?=^```$)/m, () => example());
}

/** What it is for, what it takes, and a default that is no value. */
function described(option: Option): string {
  if (option.kind === "flag") return `${option.help}.`;
  const says = option.choices === undefined ? option.allowed === ANY_TEXT ? "" : `: ${option.allowed}` : "";
  const choices = option.choices === undefined || literal(option) === undefined ? "" : `: ${option.choices.join(", ")}`;
  const help = option.help.replace("; may be repeated", "");
  const unless = literal(option) === undefined ? ` (default: ${option.fallbackText ?? "none"})` : "";
  return `${help}${says}${choices}${unless}.`;
}

function setting(name: string, option: Option): string {
  if (option.kind === "flag") return `#${name} = false`;
  return `#${name} = ${literal(option) ?? `<${option.placeholder}>`}`;
}

/** The default as TOML; undefined if it is not the same everywhere, or there is none. */
function literal(option: Option & { readonly kind: "value" }): string | undefined {
  if (option.repeats === true) return "[]";
  const { fallbackText, parse } = option;
  if (option.fallback === undefined || fallbackText === undefined || parse(fallbackText) === undefined) {
    return undefined;
  }
  return /^\d+(\.\d+)?$/.test(fallbackText) ? fallbackText : JSON.stringify(fallbackText);
}

function comment(text: string): string {
  const lines: string[] = [];
  let line = "#";
  for (const word of text.split(" ")) {
    if (line.length + 1 + word.length > WIDTH) {
      lines.push(line);
      line = "#";
    }
    line += ` ${word}`;
  }
  return [...lines, line].join("\n");
}

if (import.meta.main) {
  Deno.writeTextFileSync(ROOT + EXAMPLE, example());
  Deno.writeTextFileSync(ROOT + PAGE, page(Deno.readTextFileSync(ROOT + PAGE)));
}
