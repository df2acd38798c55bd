/**
 * What an image's header says, read by `qemu-img info` in a process that is killed if the storage does not answer. It opens
 * the image alone: no backing file, and nothing for writing.
 */

import { XenblkError } from "../../errors.ts";
import { type TreeObjects, withObjects } from "./graph.ts";
import { runQemuImg, SERVER_GONE } from "./qemu_img.ts";
import { type BlockTree, isRecord, isTree } from "./tree.ts";

/** What was read of one image, in the words of `qemu-img info --output=json`. */
export interface ImageInfo {
  /** The header's own text; absent: none. */
  readonly backingFilename?: string;
  /** The same with the image's directory or URI before a relative name. */
  readonly fullBackingFilename?: string;
  /** Absent: the header does not say, and QEMU would guess by the content. */
  readonly backingFormat?: string;
  /** Of a qcow2 image with an external data file. */
  readonly dataFile?: string;
  /** The content is encrypted. */
  readonly encrypted: boolean;
  /** `luks` or `aes`, of qcow2. */
  readonly encryption?: string;
  /** A qcow2 image that QEMU has found damaged. */
  readonly corrupt: boolean;
  /** Of formats that have clusters. */
  readonly clusterBytes?: number;
  /** Of vhdx: its writer died while it changed the image, and a writer has to finish that first. Nothing else is known. */
  readonly needsReplay?: true;
  /** The disk has no bytes. */
  readonly isEmpty?: true;
  /** The disk's, in bytes; absent: not known, or none. */
  readonly sizeBytes?: number;
  /** Of vmdk: its files. */
  readonly extents?: number;
}

/** How images are inspected. */
export interface ImageInspector {
  /** Rejects with {@linkcode XenblkError} with the reason; `label` is the image's name in messages. */
  inspect(tree: BlockTree, label: string): Promise<ImageInfo>;
}

/** How long an image may take to answer. */
const LIMIT_MS = 15_000;
/** Most output, in characters: a header with thousands of snapshots is longer. */
const MOST_OUTPUT = 8 << 20;

/** qemu-img opens images for reading, and QEMU reads no vhdx whose log has entries. */
const NEEDS_REPLAY = /contains a log that needs to be replayed/;

/** Runs `qemu-img`. */
export class QemuImg implements ImageInspector {
  readonly #program: string | undefined;
  readonly #limitMs: number;

  /** For tests: another program than the one that the environment names, and another time limit. */
  constructor(program?: string, limitMs = LIMIT_MS) {
    this.#program = program;
    this.#limitMs = limitMs;
  }

  async inspect(tree: BlockTree, label: string): Promise<ImageInfo> {
    // `qemu-img info` opens no backing file, and refuses the options of one.
    const alone = isTree(tree["backing"]) ? { ...tree, backing: null } : tree;
    const { tree: named, objects } = withObjects(alone, "info");
    // As the daemon opens it: QEMU takes `detect-zeroes=unmap` with this only.
    const image = `json:${JSON.stringify({ discard: "unmap", ...named })}`;
    const args = ["info", "--output=json", "--force-share", ...objectArguments(objects), "--", image];
    const { status, stdout, stderr } = await runQemuImg(args, {
      ...(this.#program === undefined ? {} : { program: this.#program }),
      what: `Cannot open image ${label}`,
      image,
      mostOutput: MOST_OUTPUT,
      timeoutMs: this.#limitMs,
    });
    if (status === 0) return readInfo(stdout);
    if (NEEDS_REPLAY.test(stderr)) return { encrypted: false, corrupt: false, needsReplay: true };
    throw cannotOpen(label, stderr, tree);
  }
}

/** Reads the output of `qemu-img info --output=json`. Throws {@linkcode XenblkError} if it is none. */
export function readInfo(json: string): ImageInfo {
  const info = parsed(json);
  const specific = isRecord(info["format-specific"]) ? info["format-specific"]["data"] : undefined;
  const data = isRecord(specific) ? specific : {};
  const text = (key: string, name: string, of = info): Record<string, string> => {
    const value = of[key];
    return typeof value === "string" && value !== "" ? { [name]: value } : {};
  };
  return {
    ...text("backing-filename", "backingFilename"),
    ...text("full-backing-filename", "fullBackingFilename"),
    ...text("backing-filename-format", "backingFormat"),
    ...text("data-file", "dataFile", data),
    encrypted: info["encrypted"] === true,
    ...(isRecord(data["encrypt"]) ? text("format", "encryption", data["encrypt"]) : {}),
    corrupt: data["corrupt"] === true,
    ...(typeof info["cluster-size"] === "number" ? { clusterBytes: info["cluster-size"] } : {}),
    ...sizeOf(info["virtual-size"]),
    ...(Array.isArray(data["extents"]) ? { extents: data["extents"].length } : {}),
  };
}

function sizeOf(size: unknown): Pick<ImageInfo, "isEmpty" | "sizeBytes"> {
  if (size === 0) return { isEmpty: true };
  return typeof size === "number" ? { sizeBytes: size } : {};
}

/**
 * The error about an image that QEMU could not open, from what qemu-img printed or the daemon answered. `tree` says what
 * was opened.
 */
export function cannotOpen(label: string, said: string, tree: BlockTree): XenblkError {
  const line = said.trim().split("\n").at(-1) ?? "";
  const why = line.replace(/^qemu-img: /, "").replace(/^Could not open 'json:.*': /, "");
  const known = KNOWN.find(({ pattern }) => pattern.test(why));
  const remedy = known?.remedy(tree);
  return new XenblkError(`Cannot open image ${label}: ${why === "" ? "qemu-img failed and did not say why" : why}`, {
    ...(remedy === undefined ? {} : { remedy }),
  });
}

const KNOWN: readonly { readonly pattern: RegExp; readonly remedy: (tree: BlockTree) => string }[] = [
  {
    pattern: /^Unknown (driver|protocol)|^Failed to load module/,
    remedy: () => "install the package qemu-block-extra, which has the drivers of remote stores",
  },
  {
    pattern:
      /not in \w+ format|[Ii]nvalid (VMDK|VHD|VDI|magic)|not a (Parallels|QED|vhdx)|bad (signature|magic)|signature/,
    remedy: ({ driver }) =>
      `name its real format; it does not begin like ${driver} (\`qemu-img info\` tells what it is)`,
  },
  { pattern: /Permission denied/, remedy: () => "let this user read it" },
  {
    pattern: /^error connecting/, // librados
    remedy: () => "check the cluster, its configuration (/etc/ceph/ceph.conf, or conf=), and the key (key-file=)",
  },
  { pattern: SERVER_GONE, remedy: () => "check the server that has it" },
];

/** The options of QEMU's tools that create the objects. */
export function objectArguments({ secrets, credentials }: TreeObjects): string[] {
  const option = (text: string): string => text.replaceAll(",", ",,");
  return [
    ...secrets.flatMap(({ id, file, format }) => [
      "--object",
      `secret,id=${id},${format === undefined ? "" : `format=${format},`}file=${option(file)}`,
    ]),
    ...credentials.flatMap(({ id, directory }) => [
      "--object",
      `tls-creds-x509,id=${id},endpoint=client,dir=${option(directory)}`,
    ]),
  ];
}

function parsed(json: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(json);
    if (isRecord(value)) return value;
  } catch {
    // reported below
  }
  throw new XenblkError("Cannot read what qemu-img says of the image: it is not JSON", {
    remedy: "check the image with `qemu-img info`",
  });
}
