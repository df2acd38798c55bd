/**
 * The storage daemon, `serve` or both are killed at a random point of each kind of work on a living disk, under verified
 * load: the short form of `deno task living-kills`.
 */

import { nativeTest } from "../harness.ts";
import { killAtFew } from "./living/kills.ts";

nativeTest("kills during a backup, an export and a mirror: the disk is right, and the end is told", () => {
  return killAtFew([["backup", "serve"], ["export", "daemon"], ["mirror", "both"]]);
});

nativeTest("kills while a snapshot is taken and merged: the disk is right, and the end is told", () => {
  return killAtFew([["snapshot", "serve"], ["commit", "daemon"]]);
});

nativeTest("kills during exchanges of an image: the disk is right, and the end is told", () => {
  return killAtFew([["swap", "serve"], ["swap", "both"]]);
});

nativeTest("a kill while a disc is changed: the drive has what is told", () => {
  return killAtFew([["disc", "both"]]);
});
