/**
 * Names the handles that a program did not dispose when it ends: what each leaves behind, and what to call.
 */

/** Says what is to be said of a handle, without a final period; undefined once it was disposed. */
export type Describe = () => string | undefined;

const HELD = new Set<Describe>();

/** From now on the handle is named at the end of the program, unless it is disposed. */
export function mustBeDisposed(describe: Describe): void {
  // Several times the same listener is one.
  addEventListener("unload", nameForgotten);
  for (const held of HELD) if (held() === undefined) HELD.delete(held);
  HELD.add(describe);
}

/** Writes a line about each handle that is left. */
function nameForgotten(): void {
  for (const describe of HELD) {
    const line = describe();
    // deno-lint-ignore no-console -- the process ends, and no logger is left
    if (line !== undefined) console.warn(`xenblk: ${line}`);
  }
}
