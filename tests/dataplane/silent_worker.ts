/**
 * The entry of a Worker that never says that it has started, as one on a machine that is busy with something else.
 */

export {};
