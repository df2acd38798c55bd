/**
 * Draws docs/picture/*.svg, the terminal pictures of the README, from real runs: `deno task picture`. One run needs no
 * Xen; the other is on the stand-in host with a guest, so it needs what the native tests need.
 */

import { ROOT } from "../house/source.ts";
import { formatted } from "./formatted.ts";
import { HostWithWeb, Place } from "./place.ts";

/** A command as it was typed, and what it printed. */
export interface Exchange {
  readonly command: string;
  readonly output: string;
}

/** A picture: its file in docs/picture, and the run that it shows. */
export interface Picture {
  readonly file: string;
  readonly run: () => Promise<Exchange[]>;
}

/** The pictures of the README. */
export const PICTURES: readonly Picture[] = [
  { file: "docs/picture/attach.svg", run: attaching },
  { file: "docs/picture/dry-run.svg", run: dryRun },
];

async function dryRun(): Promise<Exchange[]> {
  await using place = Place.withoutXen("folder");
  await place.run("truncate -s 64M disk.img");
  return [await exchange(place, "xenblk dry-run disk.img")];
}

async function attaching(): Promise<Exchange[]> {
  await using host = await HostWithWeb.start();
  await using place = Place.inDomain0(host.xen);
  await place.run("truncate -s 1G disk.img");
  await place.serve("xenblk serve", /serving all/);
  await place.reachable(1);
  return [
    await exchange(place, "xenblk attach web disk.img --background"),
    await exchange(place, "xenblk list"),
    await exchange(place, "xenblk resize web xvda 2G"),
    await exchange(place, "xenblk detach web xvda"),
  ];
}

async function exchange(place: Place, command: string): Promise<Exchange> {
  const { status, stdout, stderr } = await place.run(command);
  if (status !== 0) throw new Error(`Cannot draw ${command}: it ended with ${status}: ${stderr}`);
  return { command, output: shown(place, stderr + stdout) };
}

/** The output as an operator would see it, whose images are in /srv. */
function shown(place: Place, text: string): string {
  return text.replaceAll(place.folder, "/srv").trimEnd();
}

const [FONT_SIZE, LINE, COLUMN, MARGIN] = [14, 20, 8.43, 16];

/** The exchanges as an image: text, so that it can be searched and scales. */
export function drawing(exchanges: readonly Exchange[]): string {
  const lines = exchanges.flatMap(({ command, output }, index) => [
    ...(index === 0 ? [] : [""]),
    `$ ${command}`,
    ...output.split("\n"),
  ]);
  const width = Math.ceil(Math.max(...lines.map((line) => line.length)) * COLUMN + 2 * MARGIN);
  const height = lines.length * LINE + 2 * MARGIN - 4;
  const rows = lines.map((line, index) => {
    const [class_, text] = line.startsWith("$ ") ? ["typed", line] : ["printed", line];
    const y = MARGIN + FONT_SIZE + index * LINE;
    return line === ""
      ? ""
      : `<text x="${MARGIN}" y="${y}" class="${class_}" xml:space="preserve">${escaped(text)}</text>\n`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">
<style>
rect { fill: #1c2128; }
text { font: ${FONT_SIZE}px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #cdd9e5; }
.typed { fill: #8ddb8c; }
</style>
<rect width="${width}" height="${height}" rx="8"/>
${rows.join("")}</svg>
`;
}

function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

/** The lines of text in a picture. */
export function linesOf(svg: string): string[] {
  const texts = [...svg.matchAll(/<text [^>]*>(.*)<\/text>/g)].map((match) => match[1]!);
  return texts.map((text) => text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&"));
}

if (import.meta.main) {
  for (const { file, run } of PICTURES) {
    Deno.writeTextFileSync(ROOT + file, await formatted(drawing(await run()), "svg"));
  }
}
