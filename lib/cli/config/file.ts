/**
 * The configuration file of a serving process: finds and reads it, and puts its settings between the defaults and the
 * command line.
 */

import type { DiskIdentity, SettingsRule } from "../../backend/disk_identity.ts";
import type { DeviceSettings } from "../../backend/settings.ts";
import { errorText, XenblkError } from "../../errors.ts";
import { createLogger } from "../../log.ts";
import { usageError } from "../args.ts";
import { DEVICE_OPTIONS, DISK_OPTIONS, replacedOptions, settingsOf } from "../device_options.ts";
import type { OptionValues } from "../options.ts";
import { CONFIG_FILE, type CONFIG_OPTIONS } from "../serve_options.ts";
import type { ConfigContent } from "./content.ts";
import { type Fault, faultError } from "./fault.ts";
import type { Setting, Settings } from "./keys.ts";

/** Larger files are not read. */
const MOST_BYTES = 2 ** 20;

/** A file as it was read, with what is wrong in it. */
export interface ReadFile extends ConfigContent {
  readonly path: string;
  readonly faults: readonly Fault[];
}

/** Options of a disk, with their types. */
type DiskOptions = OptionValues<typeof DISK_OPTIONS>;

/** The options of a verb, and which of them were given on the command line. */
export interface GivenOptions<T> {
  readonly options: T;
  readonly given: ReadonlySet<string>;
}

/** A file without faults; or none, which changes nothing. */
export class Config {
  /** The file; undefined if none was read. */
  readonly path: string | undefined;
  readonly #content: ConfigContent;

  constructor(file?: ReadFile) {
    this.path = file?.path;
    this.#content = file ?? { serve: new Map(), disks: [] };
  }

  /** The file is about single disks. */
  get hasRules(): boolean {
    return this.#content.disks.length > 0;
  }

  /** What `[serve]` says of an option. */
  default(name: string): Setting | undefined {
    return this.#content.serve.get(name);
  }

  /** What the file says of an option of a disk: the last rule that matches, else `[serve]`. */
  forDisk(name: string, disk: DiskIdentity): Setting | undefined {
    return combined(this.#sourcesFor(disk)).get(name);
  }

  /** The options of `serve`, with the file's defaults for what was not given. */
  forServe<T extends object>(given: GivenOptions<T>): T {
    return merged(given, [this.#content.serve]);
  }

  /** The options of `attach`, for this disk. */
  forAttach<T extends object>(given: GivenOptions<T>, disk: DiskIdentity): T {
    const concerned = ([name]: readonly [string, Setting]): boolean =>
      Object.hasOwn(DISK_OPTIONS, name) || concernsAttach(name);
    return merged(given, this.#sourcesFor(disk).map((settings) => new Map([...settings].filter(concerned))));
  }

  /** The settings of each disk of `serve`; undefined if all are alike. `image` replaces the one in the nodes. */
  rule(given: GivenOptions<DiskOptions>, image?: string): SettingsRule | undefined {
    if (!this.hasRules) return undefined;
    return (disk): DeviceSettings => settingsOf(merged(given, this.#sourcesFor(disk)), image);
  }

  /** A later one counts more. */
  #sourcesFor(disk: DiskIdentity): readonly Settings[] {
    const rules = this.#content.disks.filter(({ matches }) => matches(disk));
    return [this.#content.serve, ...rules.map(({ settings }) => settings)];
  }
}

/** The options, with those of the sources in place of what was not given. */
function merged<T extends object>({ options, given }: GivenOptions<T>, sources: readonly Settings[]): T {
  const all = combined(sources);
  const values: [string, unknown][] = Object.entries(options);
  const replaced = replacedOptions(values.filter(([name]) => given.has(name)));
  const changes = Object.keys(options).flatMap((name) => {
    const setting = given.has(name) || replaced.includes(name) ? undefined : all.get(name);
    return setting === undefined ? [] : [[name, setting.value]];
  });
  // Each value came from the parser of that option, so it has the option's type.
  return { ...options, ...Object.fromEntries(changes) };
}

/** The later one counts; a limit ends those of earlier ones that it excludes. */
function combined(sources: readonly Settings[]): Settings {
  const all = new Map<string, Setting>();
  for (const source of sources) {
    for (const name of replacedOptions([...source].map(([name, { value }]) => [name, value]))) all.delete(name);
    for (const [name, setting] of source) all.set(name, setting);
  }
  return all;
}

/**
 * Reads the file that the options name, or the usual one if it exists. Rejects with {@linkcode XenblkError}: `usage` for
 * contradicting options and for a file with a fault, `failed` if it cannot be read.
 */
export async function loadConfig(verbName: string, options: OptionValues<typeof CONFIG_OPTIONS>): Promise<Config> {
  const { config: named, "no-config": none } = options;
  if (none && named !== undefined) throw usageError(verbName, "Cannot use --config and --no-config together");
  if (none) return new Config();
  const path = named ?? CONFIG_FILE;
  if (named === undefined && !isReadable(path)) {
    createLogger("config").warning(
      `cannot look for ${path}, so its settings do not apply: Deno was started without the permission; ` +
        `run deno with --allow-read=${path}, or give --no-config`,
    );
    return new Config();
  }
  const file = await readConfig(path, named !== undefined);
  if (file === undefined) return new Config();
  const [first, ...others] = file.faults;
  if (first !== undefined) throw faultError(path, [first, ...others]);
  createLogger("config").debug(`read ${path}`);
  return new Config(file);
}

function isReadable(path: string): boolean {
  return Deno.permissions.querySync({ name: "read", path }).state === "granted";
}

/** Reads a file with its faults; undefined if there is none and it need not be there. */
export async function readConfig(path: string, isNeeded: boolean): Promise<ReadFile | undefined> {
  const text = await readText(path);
  if (text !== undefined) {
    const { readContent } = await import("./content.ts"); // most hosts have no file
    return { path, ...await readContent(text) };
  }
  if (!isNeeded) return undefined;
  throw cannotRead(path, "there is no such file", "create it, or name another one");
}

/** Undefined if there is no such file. */
async function readText(path: string): Promise<string | undefined> {
  try {
    const { isFile, size } = await Deno.stat(path);
    if (!isFile) throw cannotRead(path, "it is not a regular file", "name a file");
    if (size > MOST_BYTES) throw cannotRead(path, `it has ${size} bytes`, `name a file of ${MOST_BYTES} at most`);
    return new TextDecoder("utf-8", { fatal: true }).decode(await Deno.readFile(path));
  } catch (error) {
    if (error instanceof XenblkError) throw error;
    if (error instanceof Deno.errors.NotFound) return undefined;
    if (error instanceof TypeError) throw cannotRead(path, "it is not UTF-8", "save it as UTF-8");
    if (error instanceof Deno.errors.NotCapable) {
      throw cannotRead(path, "Deno was started without the permission", `run deno with --allow-read=${path}`);
    }
    if (error instanceof Deno.errors.PermissionDenied) {
      throw cannotRead(path, "no permission", "run as root, or let this user read the file");
    }
    throw cannotRead(path, errorText(error), "see whether it can be read otherwise");
  }
}

function cannotRead(path: string, why: string, remedy: string): XenblkError {
  return new XenblkError(`Cannot read configuration ${path}: ${why}`, { remedy });
}

/** Whether a key of `[serve]` is also an option of `attach`. */
function concernsAttach(name: string): boolean {
  return Object.hasOwn(DEVICE_OPTIONS, name) || name === "kind" || name === "timeout";
}
