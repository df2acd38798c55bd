/**
 * The storage daemon, `serve` or both are killed at a random point of each kind of work on a living disk, under verified
 * load: the short form of `deno task living-kills`.
 */

import { nativeTest } from "../harness.ts";
import { killAtFew } from "./living/kills.ts";

nativeTest(
  "kills during a backup, a mirror, a merge, a snapshot and an export: the disk is right, the end is told",
  () => {
    return killAtFew([
      ["backup", "serve"],
      ["mirror", "both"],
      ["commit", "daemon"],
      ["snapshot", "serve"],
      ["export", "daemon"],
    ]);
  },
);

nativeTest("kills during exchanges of an image: the disk is right, and the end is told", () => {
  return killAtFew([["swap", "serve"], ["swap", "both"]]);
});

nativeTest("a kill while a disc is changed: the drive has what is told", () => {
  return killAtFew([["disc", "both"]]);
});
