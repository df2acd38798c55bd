/**
 * A call on an image's file as a message: to a file thread, which makes it, and back.
 */

import { type ErrorKind, errorText, XenblkError } from "../../errors.ts";

/** A call: the module that makes it (see {@linkcode FileCallModule}), and its arguments. Structured-cloneable. */
export interface FileCall {
  /** The module's absolute URL, for instance by `import.meta.url`. */
  readonly module: string;
  /** The module's own. */
  readonly [detail: string]: unknown;
}

/** What a module that a {@linkcode FileCall} names exports. */
export interface FileCallModule {
  /** Makes the call in the calling thread and may block it. Its result is structured-cloneable. */
  fileCall(call: FileCall): unknown;
}

/**
 * What a thread is sent: a call, or the module of calls to come, and after how long without another order it is to say
 * that it is idle.
 */
export type FileOrder = { readonly idleMs: number } & ({ readonly call: FileCall } | { readonly prepare: string });

/** What a thread posts: the result, or what the call threw; or that it is idle. */
export type FileAnswer = { readonly result: unknown } | { readonly failure: FileFailure } | "idle";

/** What a call threw, in a form that can be posted. */
export interface FileFailure {
  readonly message: string;
  /** `ENOENT`, of a failed system call. */
  readonly code?: string;
  /** Of an {@linkcode XenblkError}. */
  readonly expected?: { readonly kind: ErrorKind; readonly remedy?: string };
}

/** What a call threw, as a message. */
export function failureOf(error: unknown): FileFailure {
  if (error instanceof XenblkError) {
    const { message, kind, remedy } = error;
    return { message, expected: { kind, ...(remedy === undefined ? {} : { remedy }) } };
  }
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  return { message: errorText(error), ...(typeof code === "string" ? { code } : {}) };
}
