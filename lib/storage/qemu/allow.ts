/**
 * What may be opened: images that xenstore names, and files that an image's header names. A name is allowed by the rule
 * or by a pattern (`--allow-image`). Pure functions; who resolves links is chain.ts.
 */

import { XenblkError } from "../../errors.ts";
import { shellWord } from "../../shell_word.ts";
import { isFile, isPlugin, isStore } from "../image/formats.ts";
import { splitPlugin } from "../image/plugin_name.ts";
import { imageLabel, type ImageName, imageText } from "../image/spec.ts";

/** A local file as it was named, and what it turned out to be. */
export interface LocalFile {
  /** Absolute. */
  readonly named: string;
  /** Free of symbolic links. */
  readonly real: string;
  /** It is a block device. */
  readonly isDevice: boolean;
}

/** Directories of things that are not images: being in one allows nothing. */
const NO_OWN_DIRECTORY = /^\/($|(?:dev(?!\/shm(?:\/|$))|proc|sys)(?:\/|$))/;

/** An absolute path without `//`, `.` and `..`. */
const PLAIN_PATH = /^(?:\/(?!\.{0,2}(?:\/|$))[^/]+)+$/;

/**
 * Whether a text matches a pattern as a whole: `*` is any text without a slash, `**` any text, a backslash takes the next
 * character as it is. `?` means itself, since URIs have it.
 */
export function matchesPattern(pattern: string, text: string): boolean {
  // All places of the text that the pattern so far can end at. A RegExp would try one after the other, and stars multiply.
  let places = [0];
  for (const token of pattern.match(/\\[^]|\*\*|[^]/g) ?? []) {
    places = token.startsWith("*")
      ? placesAfterStar(places, text, token === "**")
      : places.filter((place) => text[place] === token.at(-1)).map((place) => place + 1);
    if (places.length === 0) return false;
  }
  return places.at(-1) === text.length;
}

/** The places, and those that a star reaches from them; in order. */
function placesAfterStar(places: readonly number[], text: string, slashesToo: boolean): number[] {
  const reached: number[] = [];
  for (const place of places) {
    for (let next = Math.max(place, (reached.at(-1) ?? -1) + 1); next <= text.length; next++) {
      const isOnWay = next === place || reached.at(-1) === next - 1;
      if (!isOnWay || (next > place && !slashesToo && text[next - 1] === "/")) break;
      reached.push(next);
    }
  }
  return reached;
}

/** The pattern that matches this text alone. */
export function literalPattern(text: string): string {
  return text.replace(/[*\\]/g, "\\$&");
}

/**
 * Throws {@linkcode XenblkError} unless xenstore may name this image: a local file, without a file that holds its
 * passphrase; or any image that matches a pattern. A systemd credential may be named for the passphrase. A plugin needs a
 * pattern that begins with `plugin:`.
 */
export function checkName(name: ImageName, patterns: readonly string[]): void {
  const text = imageText(name);
  if (isPlugin(name)) return checkPlugin(name, text, patterns);
  const isAllowed = (of: string): boolean => patterns.some((pattern) => matchesPattern(pattern, of));
  if (isAllowed(text) || (isStore(name.target) && isAllowed(name.target))) return;
  if (!isFile(name)) {
    if (name.format !== "json" && !isStore(name.target)) return; // memory, null, or a format of the library's user
    const what = name.format === "json" ? "QEMU's options" : "a store";
    throw new XenblkError(`Cannot use image ${imageLabel(name)}: xenstore names ${what}, which is not allowed`, {
      remedy: allowRemedy(name.format === "json" ? text : name.target),
    });
  }
  const { passphraseFile } = name;
  if (passphraseFile === undefined || !passphraseFile.includes("/") || isAllowed(passphraseFile)) return;
  throw new XenblkError(
    `Cannot use image ${imageLabel(name)}: xenstore names the file ${passphraseFile}, which is not allowed`,
    { remedy: `${allowRemedy(passphraseFile)}, or name a systemd credential` },
  );
}

/**
 * A plugin is code, so a pattern such as `**` does not allow it. A pattern without `?` allows its modules with whatever
 * follows `?`. A path that leads upwards is matched by no star.
 */
function checkPlugin(name: ImageName, text: string, patterns: readonly string[]): void {
  const { module } = splitPlugin(name.target);
  const texts = (pattern: string): readonly string[] => pattern.includes("?") ? [text] : [text, `plugin:${module}`];
  const isAllowed = PLAIN_PATH.test(module)
    ? patterns.some((pattern) =>
      pattern.startsWith("plugin:") && texts(pattern).some((of) => matchesPattern(pattern, of))
    )
    : patterns.includes(literalPattern(text));
  if (isAllowed) return;
  throw new XenblkError(`Cannot use image ${imageLabel(name)}: xenstore names a program, which is not allowed`, {
    remedy: allowRemedy(text),
  });
}

/** The directory of an image within which its header may name regular files; undefined: none. */
export function ownDirectory({ real, isDevice }: LocalFile): string | undefined {
  const directory = real.slice(0, real.lastIndexOf("/")) || "/";
  return isDevice || NO_OWN_DIRECTORY.test(directory) ? undefined : directory;
}

/**
 * Whether an image's header may name this file: a regular file in the own directory or below, or one that matches a
 * pattern. Links count as what they lead to, except the links in /dev, which only root makes.
 */
export function allowsFile(file: LocalFile, own: string | undefined, patterns: readonly string[]): boolean {
  const { named, real, isDevice } = file;
  if (!isDevice && own !== undefined && real.startsWith(`${own}/`)) return true;
  const names = isDevice && named.startsWith("/dev/") && !named.includes("/../") ? [real, named] : [real];
  return names.some((name) => patterns.some((pattern) => matchesPattern(pattern, name)));
}

/** What to do about a name that is not allowed. */
export function allowRemedy(text: string): string {
  return `allow it with --allow-image ${shellWord(literalPattern(text))} if it is meant`;
}
