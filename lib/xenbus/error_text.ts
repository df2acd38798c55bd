/**
 * What the backend's node `error` says of trouble that passes.
 */

/** Ends the remedy of such an error: whoever waits for the disk goes on waiting. */
export const PASSES = "this goes on by itself once it answers";
