/**
 * How a toolstack asks a backend to look at its image's size again, or to make the image larger, while a guest uses the
 * disk: a node of the backend's directory holds the request, and then the answer.
 */

/** The node. */
export const RESIZE_NODE = "resize";
/** What the backend writes when the disk is as large as its image; anything else says why it is not. */
export const RESIZE_DONE = "done";

/** What is asked for. */
export interface ResizeRequest {
  /** How large the image is to be made, in bytes. Absent: it has been made larger already. */
  readonly sizeBytes?: number;
}

/** What the toolstack writes. */
export function formatResize({ sizeBytes }: ResizeRequest): string {
  return sizeBytes === undefined ? "request" : `request ${sizeBytes}`;
}

/** What the node asks for; undefined: nothing. */
export function parseResize(value: string | undefined): ResizeRequest | undefined {
  const match = /^request(?: (\d{1,16}))?$/.exec(value ?? "");
  if (match === null) return undefined;
  return match[1] === undefined ? {} : { sizeBytes: Number(match[1]) };
}
