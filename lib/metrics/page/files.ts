/**
 * The files of the status page, as parts of the program: they are imported as text, so that they are there however it
 * was installed.
 */

import type { Page } from "../server.ts";
import css from "./page.css" with { type: "text" };
import html from "./index.html" with { type: "text" };
import js from "./page.js" with { type: "text" };

function file(type: string, text: string): Page {
  const bytes = new TextEncoder().encode(text);
  return { type: `${type}; charset=utf-8`, body: () => bytes };
}

/** By path. */
export const PAGE_FILES: readonly (readonly [string, Page])[] = [
  ["/", file("text/html", html)],
  ["/page.css", file("text/css", css)],
  ["/page.js", file("text/javascript", js)],
];
