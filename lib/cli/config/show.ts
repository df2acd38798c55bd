/**
 * `xenblk config show [DOMAIN VDEV]`: what holds for `serve`, or for one disk, and where each value comes from.
 */

import { DEFAULT_KIND } from "../../xenbus/paths.ts";
import { type DiskIdentity, identifyDisk } from "../../backend/disk_identity.ts";
import { XenblkError } from "../../errors.ts";
import { findDisk } from "../../toolstack/detach.ts";
import { parseDomId } from "../../xenbus/paths.ts";
import { parseVdev } from "../../xenbus/vdev.ts";
import { usageError } from "../args.ts";
import { DISK_OPTIONS } from "../device_options.ts";
import { flag, type Option, optional, path } from "../options.ts";
import { SERVE_OPTIONS } from "../serve_options.ts";
import { renderTable } from "../table.ts";
import { type Context, defineVerb, type Host } from "../verb.ts";
import { SERVE_KEYS } from "./content.ts";
import { type Config, loadConfig } from "./file.ts";

const OPTIONS = {
  ...SERVE_OPTIONS,
  "image": optional(path("IMAGE", "The image of a disk that is not attached yet")),
  "json": flag("Print JSON", "J"),
  "no-headings": flag("Print the table without its headings"),
} as const;

/** One effective value. */
interface EffectiveValue {
  readonly key: string;
  readonly value: string;
  /** `default`, `option`, or the file and the line. */
  readonly from: string;
}

/** The verb. */
export const showConfig = defineVerb({
  name: "config show",
  summary: "Show what holds for serve, or for one disk, and where each value comes from",
  description:
    "Shows each setting of serve, with the configuration file and with the options given here; or, with DOMAIN " +
    "and VDEV, those of one disk. A disk that is not attached is judged by the operands and by --image and --kind.",
  operands: [
    { name: "DOMAIN", help: "the guest: a name, UUID or domid", required: false },
    { name: "VDEV", help: "the virtual device, such as xvdb", required: false, check: parseVdev },
  ],
  options: OPTIONS,
  permissions: "--allow-read=/etc/xenblk; with DOMAIN also --allow-ffi --allow-env.",
  examples: ["xenblk config show", "xenblk config show web xvda", "xenblk config show web xvdb --image /srv/new.img"],
  async run({ output, host, given, inform }, options, { domain, vdev }): Promise<number> {
    if (domain !== undefined && vdev === undefined) {
      throw usageError("config show", "Cannot run config show with DOMAIN alone: a disk also has a VDEV");
    }
    const config = await loadConfig("config show", options);
    const { kind = DEFAULT_KIND, image } = config.forServe({ options, given });
    const disk = domain === undefined ? undefined : await identify(host, inform, {
      domain,
      vdev: vdev!,
      kind,
      image,
    });
    const table: Readonly<Record<string, Option>> = disk === undefined ? SERVE_KEYS : DISK_OPTIONS;
    const values = Object.entries(table).map(([key, option]) =>
      effective({ key, option, config, disk, given: given.has(key) ? { value: Reflect.get(options, key) } : undefined })
    );
    if (options.json) output.json(values);
    else {
      const columns = [{ heading: "KEY" }, { heading: "VALUE", cut: "wrap" }, {
        heading: "FROM",
        cut: "start",
      }] as const;
      const rows = values.map(({ key, value, from }) => [key, value, from]);
      output.data(renderTable(columns, rows, !options["no-headings"], output.columns));
    }
    return 0;
  },
});

/** A disk as the command line names it. */
interface NamedDisk {
  readonly domain: string;
  readonly vdev: string;
  readonly kind: string;
  readonly image: string | undefined;
}

/** The disk in xenstore, or one that is not attached yet. */
async function identify(host: Host, inform: Context["inform"], named: NamedDisk): Promise<DiskIdentity> {
  try {
    using store = (await host.openNativePlatform()).openXenstore();
    return identifyDisk(store, findDisk(store, named.domain, named.vdev).device);
  } catch (error) {
    if (!(error instanceof XenblkError) || (error.kind !== "not-found" && error.kind !== "hypervisor")) throw error;
    inform(`no such disk is found (${error.message}): it is judged by the names given here`);
    const domid = parseDomId(named.domain);
    return {
      kind: named.kind,
      ...(domid === undefined
        ? { domainName: named.domain, domainUuid: named.domain.toLowerCase() }
        : { domain: domid }),
      vdev: parseVdev(named.vdev),
      ...(named.image === undefined ? {} : { image: named.image }),
    };
  }
}

interface Lookup {
  readonly key: string;
  readonly option: Option;
  readonly config: Config;
  readonly disk: DiskIdentity | undefined;
  /** What the command line says; undefined if it says nothing. */
  readonly given: { readonly value: unknown } | undefined;
}

function effective({ key, option, config, disk, given }: Lookup): EffectiveValue {
  if (given !== undefined) return { key, value: valueText(given.value), from: "option" };
  const setting = disk === undefined ? config.default(key) : config.forDisk(key, disk);
  if (setting !== undefined) return { key, value: setting.text, from: `${config.path}:${setting.line}` };
  if (option.kind === "flag") return { key, value: "false", from: "default" };
  return { key, value: option.fallbackText ?? (option.repeats === true ? "[]" : "not set"), from: "default" };
}

function valueText(value: unknown): string {
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
