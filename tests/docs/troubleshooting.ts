/**
 * Writes docs/troubleshooting.md from the messages in the sources, by symptom: `deno task docs`. A test compares the
 * page with them.
 */

import { ROOT } from "../house/source.ts";
import { formatted } from "./formatted.ts";
import { type Message, messages } from "./messages.ts";

/** Path of the page, in the checkout. */
export const TROUBLESHOOTING = "docs/troubleshooting.md";

const HEAD = `# Troubleshooting

Start with \`xenblk doctor\`: it checks the machine, and each problem comes with its fix. Then \`xenblk list\` shows every
disk with the states of both ends, and \`xenblk show web xvdb\` shows one disk with its error. \`-v\` makes any verb log
every step. A service logs to the journal: \`journalctl -u xenblk\`.

The lists below have every message that comes with a remedy. \`deno task docs\` collects them from the sources, so they
say what the program says. \`…\` stands for a name, a number or a reason. Each message is printed with its remedy; here
they are in order of what one sees.
`;

/** What a person sees, what to look at first, and the messages that belong to it. */
interface Symptom {
  readonly title: string;
  readonly advice: string;
  readonly holds: (message: Message) => boolean;
}

const inFiles = (pattern: RegExp) => ({ file }: Message): boolean => pattern.test(file);
const says = (pattern: RegExp) => ({ text, remedy }: Message): boolean => pattern.test(`${text}; ${remedy}`);

/** A message belongs to the first symptom that holds it. */
const SYMPTOMS: readonly Symptom[] = [
  {
    title: "`doctor` reports a problem",
    advice: "The first word is the check's name in the table that `doctor` prints.",
    holds: ({ file, check }) => file.startsWith("lib/cli/doctor/") && check !== undefined,
  },
  {
    title: "A disk does not grow, or its image has shrunk",
    advice: "`xenblk resize` makes the image larger and waits for the process that serves the disk.",
    holds: says(/resize|larger|[sS]hrink/),
  },
  {
    title: "`detach` does not end",
    advice:
      "The guest holds a disk that is mounted, or its driver does not answer. The error names the states of both " +
      "ends. The request stays in xenstore, so the guest can still close the disk; then `detach` removes the nodes.",
    holds: says(/Cannot detach/),
  },
  {
    title: "Storage does not answer",
    advice:
      "The disk's node `error` and the log say what is waited for. Other disks go on. The disk goes on by itself " +
      "when its storage answers.",
    holds: says(/not answer|[nN]o answer|wait for|every I\/O Worker|was answered for|file server/),
  },
  {
    title: "The image is in use",
    advice:
      "`xenblk image info IMAGE` says who uses it. A disk that waits for a lock connects when the lock is released.",
    holds: says(/another (process|guest)|end that use|detach it there|[sS]har(e|ing) /),
  },
  {
    title: "The disk does not appear in the guest",
    advice:
      "`xenblk list` shows the states. `InitWait` of the backend: it waits for the guest's driver (`xen-blkfront`). " +
      "`Initialising` of the backend: no process serves this kind; start `xenblk serve --kind KIND`. An error is below " +
      "the disk's row.",
    holds: inFiles(/^lib\/(backend|attach|toolstack|dataplane|xenbus)/),
  },
  {
    title: "Xen, a library or a permission is missing",
    advice: "The exit status is 5.",
    holds: inFiles(/^ffi\/(xen|linux)\//),
  },
  {
    title: "io_uring is not used",
    advice: "Disks are then served by engine `file`, which takes more CPU time.",
    holds: (message) => inFiles(/uring\/setup|storage\/serving/)(message),
  },
  {
    title: "A plugin fails",
    advice: "[plugins.md](plugins.md) says what a plugin must have. `xenblk dry-run plugin:MODULE` tests one.",
    holds: inFiles(/plugin/),
  },
  {
    title: "A storage daemon, or an image of another format or store",
    advice: "[storage.md](storage.md) describes the formats, the stores and the daemons.",
    holds: inFiles(/storage\/(qemu|write_log)|ffi\/vhost/),
  },
  {
    title: "The image cannot be opened or made",
    advice: "A path in xenstore must be absolute.",
    holds: inFiles(/storage\/(image|open)|ffi\/uring|cli\/image/),
  },
  {
    title: "A filter, a trace or a replay fails",
    advice: "See [filters.md](filters.md) and [trace.md](trace.md).",
    holds: inFiles(/storage\/filter|lib\/trace|cli\/replay/),
  },
  {
    title: "The configuration file has a fault",
    advice: "`xenblk config check` shows all faults of the file at once. See [config.md](config.md).",
    holds: inFiles(/\/config\b/),
  },
  {
    title: "A serving process cannot be reached",
    advice: "`list`, `show`, `detach` and `resize` ask the process that serves a disk through a socket in " +
      "`/run/xenblk/control`, and use xenstore alone if there is none.",
    holds: inFiles(/lib\/(control|cli\/(log_level|background|events))/),
  },
  {
    title: "The service, or the address of its metrics",
    advice: "[deploy.md](deploy.md) describes the service, [metrics.md](metrics.md) the metrics.",
    holds: inFiles(/cli\/(install|metrics)|lib\/(metrics|systemd)/),
  },
  {
    title: "Other messages",
    advice: "A usage error names the option or operand, and says what is allowed; the exit status is 2.",
    holds: () => true,
  },
];

/** The whole page, as the formatter leaves it. */
export async function troubleshooting(): Promise<string> {
  const left = new Set(messages());
  const sections = SYMPTOMS.map(({ title, advice, holds }) => {
    const own = [...left].filter(holds);
    for (const message of own) left.delete(message);
    return `## ${title}\n\n${advice}\n\n${own.map(lineOf).join("\n")}\n`;
  });
  return await formatted([HEAD, ...sections].join("\n"), "md");
}

function lineOf({ text, remedy, check }: Message): string {
  // A reason alone is the end of a sentence such as "Cannot open image a.img: ...".
  const start = check ?? (/^(Cannot|…)/.test(text) ? "" : "…");
  const name = start === "" ? "" : `${plain(start)}: `;
  return `- **${name}${plain(text)}**: ${plain(remedy)}`;
}

/** Without characters that Markdown would take for its own. */
function plain(text: string): string {
  return text.split("`").map((part, index) => index % 2 === 1 ? part : part.replace(/[*<[\]]/g, "\\$&")).join("`");
}

if (import.meta.main) Deno.writeTextFileSync(ROOT + TROUBLESHOOTING, await troubleshooting());
