/**
 * Errors on their way through the control socket: an expected one keeps its kind and its remedy.
 */

import { type ErrorKind, errorText, EXIT_STATUS, XenblkError } from "../errors.ts";
import { XenstoreError } from "../hypervisor.ts";
import { isAbort } from "../abort.ts";
import { explainStoreError } from "../xenstore.ts";
import { ERROR_CODE, type ErrorObject } from "./protocol.ts";

/** A message that breaks the protocol, or names no method. */
export class ProtocolError extends Error {
  readonly breach: "parse" | "request" | "method";

  constructor(breach: "parse" | "request" | "method", message: string) {
    super(message);
    this.breach = breach;
  }
}

/** The error as the client gets it. Anything unexpected is a defect, and says so. */
export function errorObject(error: unknown): ErrorObject {
  if (error instanceof ProtocolError) return { code: ERROR_CODE[error.breach], message: error.message };
  const expected = expectedError(error);
  if (expected === undefined) {
    return { code: ERROR_CODE.internal, message: `${errorText(error)}; this is a defect of the serving process` };
  }
  const { message, kind, remedy } = expected;
  return { code: ERROR_CODE[kind], message, data: { kind, ...(remedy === undefined ? {} : { remedy }) } };
}

function expectedError(error: unknown): XenblkError | undefined {
  if (error instanceof XenblkError) return error;
  if (error instanceof XenstoreError) return explainStoreError(error);
  if (isAbort(error)) return new XenblkError(`Cannot go on: ${errorText(error)}`);
  return undefined;
}

/** The error that a client throws for an answer. */
export function fromErrorObject({ code, message, data }: ErrorObject): XenblkError {
  const known = data !== undefined && Object.hasOwn(EXIT_STATUS, data.kind);
  const kind: ErrorKind = known ? data.kind : code === ERROR_CODE.usage ? "usage" : "failed";
  return new XenblkError(message, { kind, ...(data?.remedy === undefined ? {} : { remedy: data.remedy }) });
}
