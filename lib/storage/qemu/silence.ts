/**
 * The errors of a storage daemon that cannot be talked to: for those who go on with another one, without the rest of QMP.
 */

import { XenblkError } from "../../errors.ts";

/** A daemon did not answer in time, answered nonsense, or ended the connection. */
export class QmpSilentError extends XenblkError {}

/** Nothing listens at the daemon's socket: it has ended. */
export class QmpAbsentError extends QmpSilentError {}
