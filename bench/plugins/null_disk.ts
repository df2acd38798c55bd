/**
 * A disk that does nothing, as a plugin: what the way to its process costs.
 */

import { defineDisk, type DiskMethods, parseSize } from "../../mod.ts";

export default defineDisk({
  open: (size): DiskMethods => ({ sizeBytes: parseSize(size), read: () => {}, write: () => {} }),
});
