/**
 * Strict decimal numbers, as xenstore's nodes and paths hold them: text such as 1e3, which Number() would accept, is
 * refused. Also how text of unknown origin is quoted in messages.
 */

/** The largest u32. */
export const MAX_U32 = 0xFFFF_FFFF;

/**
 * A decimal number from `minimum` to `maximum` (at most 2^53 - 1), or undefined: no sign, space, leading zero or
 * fraction.
 */
export function parseDecimal(text: string, minimum: number, maximum: number): number | undefined {
  if (!/^(?:0|[1-9][0-9]{0,15})$/.test(text)) return undefined;
  const value = Number(text);
  return value >= minimum && value <= maximum ? value : undefined;
}

/** Text of unknown origin and length for a message: quoted, in printable ASCII alone, cut after 40 characters. */
export function quoted(text: string): string {
  const cut = JSON.stringify(text.length > 40 ? `${text.slice(0, 40)}...` : text);
  return cut.replace(/[^ -~]/g, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
