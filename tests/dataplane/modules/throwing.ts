/**
 * A module that cannot be loaded: it throws at its top level.
 */

throw new RangeError("a defect of its own");
