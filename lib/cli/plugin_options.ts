/**
 * The options for disks in TypeScript (`plugin:`), shared by the verbs that serve them and by `dry-run`.
 */

import {
  DEFAULT_PLUGIN_SETTINGS,
  PERMISSION_FORM,
  type PluginSettings,
  readPermission,
} from "../storage/plugin/settings.ts";
import { choice, decimal, defaulting, type OptionValues, repeated, size } from "./options.ts";

const MIB = 2 ** 20;

/** How plugins are run. */
export const PLUGIN_OPTIONS = {
  "plugin-memory": defaulting(
    size(
      "Most memory of a plugin; its process ends when it needs more, and is started again",
      MIB,
      32 * MIB,
      2 ** 40,
    ),
    `${DEFAULT_PLUGIN_SETTINGS.memoryBytes / MIB}M`,
  ),
  "plugin-allow": repeated({
    placeholder: "PERMISSION",
    help: "What plugins may reach beside their own directory, as Deno's --allow options take it, for instance " +
      "net=host:443, read=/path or env=NAME",
    allowed: `one of ${PERMISSION_FORM}`,
    parse: readPermission,
  }),
  "plugin-timeout": defaulting(
    decimal(
      "How long a request may take in a plugin before its process is ended and started again",
      0.1,
      86_400,
      "SECONDS",
    ),
    String(DEFAULT_PLUGIN_SETTINGS.requestTimeoutMs / 1000),
  ),
  "plugin-trouble": defaulting(
    choice("What requests do when a plugin has crashed or hung: wait for its next process (hold), or fail (fail)", [
      "hold",
      "fail",
    ]),
    DEFAULT_PLUGIN_SETTINGS.onTrouble,
  ),
} as const;

/** The settings that these options express. */
export function pluginSettingsOf(options: OptionValues<typeof PLUGIN_OPTIONS>): PluginSettings {
  return {
    memoryBytes: options["plugin-memory"],
    permissions: options["plugin-allow"],
    requestTimeoutMs: Math.round(options["plugin-timeout"] * 1000),
    onTrouble: options["plugin-trouble"],
  };
}
