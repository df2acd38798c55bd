/**
 * What verbs say about processes that have a control socket and do not answer: what they serve is not seen, but nobody
 * should start another one for that.
 */

import type { NoteSilent } from "../control/serving.ts";
import { type ErrorKind, XenblkError } from "../errors.ts";

/** What to do about them. */
const REMEDY = "see whether it is stopped (`ps` shows state T) or hangs";

/** The processes that did not answer. */
export class Silent {
  readonly #pids = new Set<number>();

  /** Takes the number of one. */
  readonly note: NoteSilent = (pid) => void this.#pids.add(pid);

  /** All have answered. */
  get isEmpty(): boolean {
    return this.#pids.size === 0;
  }

  /** As after a colon: `process 812 does not answer on its control socket`. */
  get text(): string {
    const [first, ...others] = [...this.#pids].sort((a, b) => a - b);
    return others.length === 0
      ? `process ${first} does not answer on its control socket`
      : `processes ${[first, ...others].join(", ")} do not answer on their control sockets`;
  }

  /** The same with what to do about it. */
  get line(): string {
    return `${this.text}: ${REMEDY}`;
  }

  /** `what` is what could not be done, as in `Cannot limit xvda`. */
  error(what: string, kind: ErrorKind = "failed"): XenblkError {
    return new XenblkError(`${what}: ${this.text}`, { kind, remedy: REMEDY });
  }
}
