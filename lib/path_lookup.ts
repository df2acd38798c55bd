/**
 * Looks at paths without blocking the calling thread, and with a time limit: a path can be on a file server that does
 * not answer. A look that takes too long occupies one thread of Deno's pool until the file system answers, so the
 * number of such looks is limited.
 */

import { XenblkError } from "./errors.ts";

/** How long a file system may take to answer, in milliseconds. */
const PATIENCE_MS = 5_000;
/** The most looks that may be overdue at one time. Deno's pool has 32 threads, and other calls need them too. */
const MOST_OVERDUE = 8;

/** The paths of looks that were given up and have not been answered since. */
const OVERDUE = new Set<string>();

/** A file system did not answer in time. */
export class NoAnswerError extends XenblkError {}

/**
 * The outcome of `look`, a call on the file system of `path`. Rejects with {@linkcode NoAnswerError} if it takes longer
 * than `timeoutMs`; or at once, without a call, if an earlier look at this path or eight looks at other paths have not
 * been answered yet.
 */
export async function lookWithin<T>(path: string, look: () => Promise<T>, timeoutMs: number = PATIENCE_MS): Promise<T> {
  if (OVERDUE.has(path)) throw noAnswer(path, "its file system has not answered an earlier call");
  if (OVERDUE.size >= MOST_OVERDUE) throw noAnswer(path, `${OVERDUE.size} other calls have not returned yet`);
  const answer = look();
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    OVERDUE.add(path);
    late.reject(noAnswer(path, `its file system has not answered for ${timeoutMs / 1000} s`));
  }, timeoutMs);
  const settled = (): void => {
    clearTimeout(timer);
    OVERDUE.delete(path);
  };
  answer.then(settled, settled);
  return await Promise.race([answer, late.promise]);
}

/** Whether something is at the path that this process can look at. Rejects with {@linkcode NoAnswerError}. */
export async function pathExists(path: string): Promise<boolean> {
  try {
    await lookWithin(path, () => Deno.stat(path));
    return true;
  } catch (error) {
    if (error instanceof NoAnswerError) throw error;
    return false; // whatever keeps us from it is reported when it is opened
  }
}

/**
 * The absolute path of an existing file, free of symbolic links. Where Deno cannot express that path because it is not
 * UTF-8, the links stay in it. Rejects with {@linkcode NoAnswerError}, or with Deno's errors.
 */
export async function absolutePath(path: string): Promise<string> {
  try {
    return await lookWithin(path, () => Deno.realPath(path));
  } catch (error) {
    if (!(error instanceof Deno.errors.InvalidData)) throw error;
    return path.startsWith("/") ? path : `${Deno.cwd()}/${path}`;
  }
}

function noAnswer(path: string, why: string): NoAnswerError {
  return new NoAnswerError(`Cannot look at ${path}: ${why}`, {
    remedy: "check the file server, or whatever else serves that file system",
  });
}
