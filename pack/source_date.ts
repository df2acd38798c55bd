/**
 * The date that packages and man pages carry, so that two builds of the same source are the same bytes: that of
 * SOURCE_DATE_EPOCH, or of the commit, or of the changelog's file.
 */

/** Seconds since 1970. `root` is the checkout, or an unpacked archive of it. */
export function sourceDate(root: string): number {
  const given = Deno.env.get("SOURCE_DATE_EPOCH");
  if (given !== undefined && /^\d{1,12}$/.test(given)) return Number(given);
  return commitDate(root) ?? Math.floor((Deno.statSync(`${root}CHANGELOG.md`).mtime?.getTime() ?? 0) / 1000);
}

/** The date as YYYY-MM-DD, in UTC. */
export function dateOf(seconds: number): string {
  return new Date(seconds * 1000).toISOString().slice(0, 10);
}

function commitDate(root: string): number | undefined {
  try {
    const { success, stdout } = new Deno.Command("git", {
      args: ["-C", root, "log", "-1", "--format=%ct"],
      stderr: "null",
    }).outputSync();
    return success ? Number(new TextDecoder().decode(stdout)) : undefined;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}
