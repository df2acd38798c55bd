/**
 * The one error that a person sees: what failed, on which node, file or sector, why, and what to do. It also has the
 * exit status that a command ends with.
 */

/**
 * Exit status of the command by kind of error: `failed` 1, `usage` 2, `not-found` 3 (no such domain or device),
 * `timeout` 4 (the guest did not answer in time), `hypervisor` 5 (Xen missing or not permitted).
 */
export const EXIT_STATUS = { "failed": 1, "usage": 2, "not-found": 3, "timeout": 4, "hypervisor": 5 } as const;

/** The kinds of {@linkcode EXIT_STATUS}. */
export type ErrorKind = keyof typeof EXIT_STATUS;

/** What an {@linkcode XenblkError} has beside its message. */
export interface XenblkErrorOptions extends ErrorOptions {
  /** Decides the exit status; `failed` if absent. */
  readonly kind?: ErrorKind;
  /** What the reader can do about it: an imperative clause without a final period. */
  readonly remedy?: string;
}

/**
 * An expected failure: its message says what failed, on which thing and why, without a final period, for instance
 * `Cannot open image /a/b.img: it is a directory`.
 */
export class XenblkError extends Error {
  /** Tells it from other errors. */
  override readonly name: string = "XenblkError";
  /** Decides the exit status. */
  readonly kind: ErrorKind;
  /** What the reader can do about it, if anything. */
  readonly remedy: string | undefined;

  /** Without options it is of kind `failed` and has no remedy. */
  constructor(message: string, options: XenblkErrorOptions = {}) {
    super(message, options);
    this.kind = options.kind ?? "failed";
    this.remedy = options.remedy;
  }

  /** The exit status of a command that ends with this error. */
  get exitStatus(): number {
    return EXIT_STATUS[this.kind];
  }

  /** The one line that is shown: the message, and the remedy after a semicolon. */
  get line(): string {
    return this.remedy === undefined ? this.message : `${this.message}; ${this.remedy}`;
  }
}

/** The text of anything thrown, for a log line or an error node. Never throws. */
export function errorText(error: unknown): string {
  try {
    if (error instanceof XenblkError) return error.line;
    // What failed first, and what failed during the clean-up.
    if (error instanceof SuppressedError) return `${errorText(error.suppressed)} (and then: ${errorText(error.error)})`;
    return String(error instanceof Error ? error.message : error);
  } catch {
    return "an error without a text"; // what throws when it is looked at, such as an object without a prototype
  }
}
