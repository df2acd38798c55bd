/**
 * How a toolstack asks a backend to look at its image's size again, while a guest uses the disk: a node of the backend's
 * directory holds the request, and then the answer.
 */

/** The node. */
export const RESIZE_NODE = "resize";
/** What the toolstack writes. */
export const RESIZE_REQUEST = "request";
/** What the backend writes when the disk is as large as its image; anything else says why it is not. */
export const RESIZE_DONE = "done";
