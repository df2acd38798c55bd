/**
 * `deno task man [FOLDER]`: writes the man pages into a folder (by default man1), which is made if it is missing. Read
 * one with `man -l man1/xenblk.1`.
 */

import { dateOf, sourceDate } from "../source_date.ts";
import { readProject } from "../manifest.ts";
import { manPages } from "./pages.ts";

const ROOT = new URL("../../", import.meta.url).pathname;

const [folder = "man1"] = Deno.args;
Deno.mkdirSync(folder, { recursive: true });
const imprint = { version: readProject(ROOT).version, date: dateOf(sourceDate(ROOT)) };
for (const [name, text] of await manPages(imprint)) Deno.writeTextFileSync(`${folder}/${name}`, text);
