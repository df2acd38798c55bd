/**
 * The options of `serve`. A configuration file sets the same ones.
 */

import { DEFAULT_KIND } from "../xenbus/paths.ts";
import { COMPANION_OPTIONS } from "./companions.ts";
import { DEVICE_OPTIONS, KIND, TIMEOUT } from "./device_options.ts";
import { choice, flag, optional, path } from "./options.ts";

/** The configuration file that is read if it exists. */
export const CONFIG_FILE = "/etc/xenblk/config.toml";

/** Which configuration file is read. */
export const CONFIG_OPTIONS = {
  "config": optional(path("FILE", "Read defaults and settings of disks from FILE"), `${CONFIG_FILE} if it exists`),
  "no-config": flag("Read no configuration file"),
} as const;

/** The options. */
export const SERVE_OPTIONS = {
  ...DEVICE_OPTIONS,
  ...COMPANION_OPTIONS,
  ...CONFIG_OPTIONS,
  "kind": optional(KIND, `that of BACKEND-PATH, or ${DEFAULT_KIND}`),
  "image": optional(path("IMAGE", "Image of the device BACKEND-PATH, instead of the one in its node params")),
  "log-level": optional(
    choice("Log lines of this level and above; xenblk log-level changes it later", [
      "debug",
      "info",
      "warning",
      "error",
    ]),
    "debug with -v, error with -q, else info",
  ),
  "detach-on-exit": flag("At the end detach the devices instead of leaving them Connected"),
  "timeout": TIMEOUT,
} as const;
