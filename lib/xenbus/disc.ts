/**
 * What a backend says of a drive, and who changes its disc waits for.
 */

/** The end of the node `error` while a disc is named that cannot be opened. */
export const STAYS_EMPTY = "the drive is empty until its disc is changed again";
