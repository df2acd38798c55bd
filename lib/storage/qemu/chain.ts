/**
 * Finds every file of an image: its backing files and external data file, one after the other, each checked against what
 * may be opened before anything opens it. The result is a tree that names all files, so that the storage daemon has
 * nothing left to look up in a header.
 */

import { XenblkError } from "../../errors.ts";
import { lookWithin } from "../../path_lookup.ts";
import { shellWord } from "../../shell_word.ts";
import { canonicalFormat, isFile, isStore } from "../image/formats.ts";
import { checkSnapshot, imageLabel, type ImageName, withoutPasswords } from "../image/spec.ts";
import { allowRemedy, allowsFile, checkName, type LocalFile, matchesPattern, ownDirectory } from "./allow.ts";
import { type BlockGraph, describeTree, graphOf, type GraphOptions } from "./graph.ts";
import type { ImageInfo, ImageInspector } from "./image_info.ts";
import { snapshotFile } from "./snapshot.ts";
import { checkContent, lookAtFile, type LookedFile, severalExtents } from "./local_file.ts";
import { storeTree } from "./store.ts";
import {
  type BlockTree,
  childrenOf,
  isTree,
  localPath,
  mapOptions,
  nodesOf,
  parseTree,
  withChildren,
  withoutBacking,
} from "./tree.ts";

/** What finding a chain uses. */
export interface ChainContext {
  /** Reads headers. */
  readonly inspector: ImageInspector;
  /** Patterns of what may be named, see allow.ts. Absent: the caller vouches for the name, though not for the header. */
  readonly allowImages?: readonly string[];
  /** Where systemd credentials are: the value of `CREDENTIALS_DIRECTORY`. Absent: there are none. */
  readonly credentialsDirectory?: string;
  /** The image is only read. Default: it may be written to. */
  readonly readOnly?: boolean;
  /** Where the header of a snapshot inside the image is kept (see snapshot.ts). Absent: the tree is only looked at. */
  readonly headerFile?: string;
}

/** Formats whose headers can name a backing file. */
const WITH_BACKING = new Set(["qcow2", "qcow", "qed", "vmdk"]);
/** Stores that QEMU connects to by calls that block. */
const BLOCKING = new Set(["iscsi", "nfs", "ssh", "rbd", "http", "https"]);
/** At most the size of a cluster, says QEMU. */
const TABLE_PIECE_BYTES = 4096;
/** Longest chain. */
const MOST_LAYERS = 200;

/**
 * The tree of an image, with every file and every backing file. Rejects with {@linkcode XenblkError} that names the image
 * and the file: missing, not allowed, of an unknown format, encrypted without a passphrase, a chain without end, ...
 */
export async function imageTree(name: ImageName, context: ChainContext): Promise<BlockTree> {
  const label = imageLabel(name);
  if (name.snapshot !== undefined) checkSnapshot(name, name.snapshot);
  const named = namedTree(name, label); // refuses a password, before anything quotes the name
  if (context.allowImages !== undefined) checkName(name, context.allowImages);
  const tree = withSecretFiles(named, label, context);
  const passphrase = name.passphraseFile;
  const passphraseFile = passphrase === undefined ? undefined : secretFile(passphrase, label, context);
  return await new ChainFinder(label, context, passphraseFile, name.snapshot).complete(tree, { ancestors: [] });
}

/** How an image becomes a graph. */
export interface ImageGraphOptions extends Omit<ChainContext, "readOnly">, Omit<GraphOptions, "label" | "inMemory"> {
  /** The path of a backing file that is passed over: the one below has all that it holds. Absent: none is. */
  readonly without?: string;
}

/** What the storage daemon is to open for an image. */
export interface ImageGraph {
  readonly graph: BlockGraph;
  /** What it was made of. The `file` of each image is the one that its inspector was asked about. */
  readonly tree: BlockTree;
  /** Everything that is opened, for the log: `qcow2 /srv/a.qcow2, backed by raw /srv/base.img`. */
  readonly description: string;
}

/** Finds the files of an image and names their nodes. Rejects as {@linkcode imageTree} and {@linkcode graphOf}. */
export async function imageGraph(name: ImageName, options: ImageGraphOptions): Promise<ImageGraph> {
  const named = await imageTree(name, options);
  const tree = options.without === undefined ? named : withoutBacking(named, options.without);
  const inMemory = await filesInMemory(tree);
  const graph = graphOf(tree, { ...options, inMemory, label: imageLabel(name) });
  return { graph, tree, description: describeTree(tree) };
}

/**
 * The files of a tree that are on tmpfs, by path. Every call there waits until it is done. An io_uring gives each one to
 * another thread, which costs more than the call; with Linux AIO, which takes O_DIRECT, the daemon makes it at once.
 */
async function filesInMemory(tree: BlockTree): Promise<ReadonlySet<string>> {
  const paths = nodesOf(tree).flatMap((node) => localPath(node) ?? []);
  const mounts = await Deno.readTextFile("/proc/self/mountinfo").catch(() => "");
  const devices = new Set([...mounts.matchAll(/^\d+ \d+ (\d+:\d+) .* - tmpfs /gm)].map(([, device]) => device));
  const found = new Set<string>();
  for (const path of paths) {
    // One that is gone meanwhile is the daemon's to report.
    const dev = (await lookWithin(path, () => Deno.stat(path).catch(() => undefined)))?.dev ?? 0;
    // Linux: new_encode_dev(). The major number of a file system without a device is 0.
    if (devices.has(`${(dev >>> 8) & 0xfff}:${(dev & 0xff) | ((dev >>> 12) & 0xfff00)}`)) found.add(path);
  }
  return found;
}

/** The tree that a name says, before any header is read. */
function namedTree({ format, target }: ImageName, label: string): BlockTree {
  if (format === "json") return parseTree(target, label);
  if (!isStore(target) && !isFile({ format, target })) {
    throw new TypeError(`Cannot open ${label} by the storage daemon: its format is not one of QEMU's`);
  }
  const file = isStore(target) ? storeTree(target) : { driver: "file", filename: absolute(target) };
  return { driver: format, file };
}

/** Without `.` and `..`, as far as that can be said without looking at links. */
function normalized(path: string): string {
  const parts: string[] = [];
  for (const part of path.split("/")) {
    if (part === "..") parts.pop();
    else if (part !== "" && part !== ".") parts.push(part);
  }
  return `/${parts.join("/")}`;
}

function absolute(path: string): string {
  return path.startsWith("/") ? path : `${Deno.cwd()}/${path}`;
}

/** The absolute path of a file with a secret; a name without slashes is a systemd credential. */
function secretFile(name: string, label: string, { credentialsDirectory }: ChainContext): string {
  if (name.startsWith("/")) return name;
  const why = name.includes("/") || name === "" || name === "." || name === ".."
    ? "it is neither an absolute path nor the name of a systemd credential"
    : credentialsDirectory === undefined
    ? "there are no systemd credentials (CREDENTIALS_DIRECTORY is not set)"
    : undefined;
  if (why === undefined) return `${credentialsDirectory}/${name}`;
  throw new XenblkError(`Cannot use secret file ${JSON.stringify(name)} of image ${label}: ${why}`, {
    remedy: "name an absolute path, or add LoadCredential= to the unit and name that credential",
  });
}

function withSecretFiles(tree: BlockTree, label: string, context: ChainContext): BlockTree {
  return mapOptions(tree, (option, value) => option.endsWith("-secret") ? secretFile(value, label, context) : value);
}

/** QEMU then reads and writes qcow2's L2 tables in pieces of this size: each flush writes less metadata. */
function withSmallTables(tree: BlockTree, { clusterBytes }: ImageInfo): BlockTree {
  if (tree.driver !== "qcow2" || "l2-cache-entry-size" in tree || !(clusterBytes! >= TABLE_PIECE_BYTES)) return tree;
  return { ...tree, "l2-cache-entry-size": TABLE_PIECE_BYTES };
}

/** What the header of an image names. */
interface Header {
  /** As it is written there. */
  readonly text: string;
  /** `the backing file` or `the data file`. */
  readonly what: string;
  /** The image with that header: its path as it was named, or a description. */
  readonly path: string;
}

/** Where in the chain a node is. */
interface Place {
  /** If a header named the node. Absent: the user did. */
  readonly header?: Header;
  /** The images above, by what tells them apart. */
  readonly ancestors: readonly string[];
}

function isFormat(driver: string): boolean {
  return isFile({ format: driver, target: "" });
}

/** The image's file begins with a header that can name others, or is encrypted. */
function hasHeader({ driver }: BlockTree): boolean {
  return isFormat(driver) && driver !== "raw";
}

/** The node of a local file or device. */
interface LocalNode {
  readonly tree: BlockTree;
  readonly file: LookedFile;
}

/**
 * The node of a file that is data as a whole. By io_uring, QEMU 7.2 never completes a read of the last sector if the file
 * ends within it.
 */
function dataTree({ tree, file: { hasWholeSectors } }: LocalNode): BlockTree {
  return hasWholeSectors ? tree : { aio: "threads", ...tree };
}

/** Completes the tree of one image. */
class ChainFinder {
  readonly #label: string;
  readonly #context: ChainContext;
  readonly #passphraseFile: string | undefined;
  readonly #patterns: readonly string[];
  readonly #snapshot: string | undefined;
  /** Of the first local file that the user named; see {@linkcode ownDirectory}. */
  #own: { readonly directory: string | undefined } | undefined;

  constructor(
    label: string,
    context: ChainContext,
    passphraseFile: string | undefined,
    snapshot: string | undefined,
  ) {
    this.#snapshot = snapshot;
    this.#label = label;
    this.#context = context;
    this.#passphraseFile = passphraseFile;
    this.#patterns = context.allowImages ?? [];
  }

  /** The node with everything below it. */
  async complete(tree: BlockTree, place: Place): Promise<BlockTree> {
    if (place.ancestors.length >= MOST_LAYERS) {
      throw this.#refusal(`its chain has more than ${MOST_LAYERS} images`, "shorten it with `qemu-img rebase`");
    }
    if (localPath(tree) !== undefined) return dataTree(await this.#local(tree, place));
    this.#checkDriver(tree, place);
    const { file } = tree;
    if (!isTree(file)) return await this.#withChildren(tree, place, new Map());
    const local = localPath(file) === undefined ? undefined : await this.#local(file, place);
    const identity = local?.file.identity ?? JSON.stringify(file);
    if (local === undefined && place.ancestors.includes(identity)) throw this.#loop(describeTree(file));
    const below = { ...place, ancestors: [...place.ancestors, identity] };
    const known = local === undefined ? [] : [[file, await this.#fileTree(tree, local, place)] as const];
    const whole = await this.#withChildren(tree, below, new Map(known));
    if (hasHeader(tree)) return await this.#withHeader(whole, local?.file, below);
    // A dead server is met by a process that can be killed, not by the daemon, which would wait for it with all its disks.
    if (tree.driver === "raw" && BLOCKING.has(file.driver)) await this.#context.inspector.inspect(whole, this.#label);
    return whole;
  }

  /** What stands for the local file of a format. */
  async #fileTree({ driver }: BlockTree, local: LocalNode, { ancestors }: Place): Promise<BlockTree> {
    if (driver === "raw") return dataTree(local);
    if (this.#snapshot === undefined || ancestors.length > 0) return local.tree;
    const { readOnly, headerFile } = this.#context;
    if (readOnly === false) {
      throw this.#refusal("a snapshot can only be read", "attach it read-only, or copy it (`xenblk image convert`)");
    }
    const name = { snapshot: this.#snapshot, label: this.#label, ...(headerFile === undefined ? {} : { headerFile }) };
    return await snapshotFile(local.tree, local.file, name);
  }

  async #withChildren(tree: BlockTree, place: Place, known: Map<BlockTree, BlockTree>): Promise<BlockTree> {
    for (const { tree: child } of childrenOf(tree)) {
      if (!known.has(child)) known.set(child, await this.complete(child, place));
    }
    return withChildren(tree, known);
  }

  /** A local file or device by its real path; refuses what a header may not name. */
  async #local(
    tree: BlockTree,
    { header, ancestors }: Place,
  ): Promise<LocalNode> {
    const path = localPath(tree)!;
    if (!path.startsWith("/")) throw this.#refusal(`the file name ${path} is relative`, "name it from / on");
    const file = await this.#look(path, header);
    if (header === undefined) this.#own ??= { directory: ownDirectory(file) };
    if (ancestors.includes(file.identity)) throw this.#loop(path);
    const driver = tree.driver === "file" && file.isDevice ? "host_device" : tree.driver;
    return { tree: { ...tree, driver, filename: file.real }, file };
  }

  #loop(what: string): XenblkError {
    return this.#refusal(`its chain of backing files comes back to ${what}`, "give that image another backing file");
  }

  async #look(path: string, header: Header | undefined): Promise<LookedFile> {
    try {
      return await lookAtFile(path, this.#label, (file) => this.#checkFile(file, header));
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
      if (header === undefined) {
        const remedy = "name an existing file, or create it with `qemu-img create`";
        throw this.#refusal("there is no such file", remedy, error);
      }
      // A guest can read the error: it must not learn which files the host has.
      this.#checkFile({ named: path, real: normalized(path), isDevice: false }, header);
      const remedy = header.what === "the backing file"
        ? `put it there, or name where it is: \`qemu-img rebase -u -F FORMAT -b PATH ${shellWord(header.path)}\``
        : "put it there";
      throw this.#refusal(`${header.what} ${path} does not exist`, remedy, error);
    }
  }

  /** Refuses a file that a header may not name, before it is opened. */
  #checkFile(file: LocalFile, header: Header | undefined): void {
    const own = this.#own?.directory;
    if (header === undefined || allowsFile(file, own, this.#patterns)) return;
    const where = own === undefined ? "is not allowed" : `is not in the image's own directory ${own}`;
    const link = normalized(file.named) === file.real ? "" : ` (a link to ${file.real})`;
    const name = `${header.what} ${file.named}${link}`;
    throw this.#refusal(`the header of ${header.path} names ${name}, which ${where}`, allowRemedy(file.real));
  }

  /** A header may name formats over files; anything else only if its text matches a pattern. */
  #checkDriver({ driver }: BlockTree, { header }: Place): void {
    if (header === undefined || isFormat(driver) || this.#allows(header.text)) return;
    const what = `${header.what} ${withoutPasswords(header.text)}`;
    throw this.#refusal(`the header of ${header.path} names ${what}`, allowRemedy(header.text));
  }

  #allows(text: string): boolean {
    return this.#patterns.some((pattern) => matchesPattern(pattern, text));
  }

  /** Adds what the header of an image names. */
  async #withHeader(tree: BlockTree, file: LookedFile | undefined, place: Place): Promise<BlockTree> {
    if (file !== undefined) checkContent(tree.driver, file, this.#label);
    else if (tree.driver === "vpc") {
      const why = "a VHD in a store may hold only differences to a parent, which QEMU would read as zeroes";
      throw this.#refusal(why, "copy it to a local file");
    }
    const info = await this.#context.inspector.inspect(tree, this.#label);
    const path = file?.named ?? describeTree(tree["file"] as BlockTree);
    this.#checkInfo(tree, info, path, place);
    const opened = this.#withPassphrase(tree, info, path, place);
    const isWhole = info.dataFile === undefined || "data-file" in tree;
    const whole = isWhole ? opened : { ...opened, "data-file": await this.#dataFile(info.dataFile, path, place) };
    const cached = withSmallTables(whole, info);
    if (!WITH_BACKING.has(tree.driver) || "backing" in tree) return cached;
    return { ...cached, backing: await this.#backing(info, path, place) };
  }

  async #dataFile(text: string, path: string, place: Place): Promise<BlockTree> {
    const header = { text, what: "the data file", path };
    return await this.complete(this.#protocolTree(text, text, header), { ...place, header });
  }

  #checkInfo({ driver }: BlockTree, info: ImageInfo, path: string, { header }: Place): void {
    const { corrupt, extents, backingFilename, needsReplay, isEmpty } = info;
    if (driver === "vmdk" && (extents ?? 1) > 1) throw severalExtents(this.#label, path);
    if (driver === "vmdk" && backingFilename !== undefined) {
      throw severalExtents(this.#label, path, "differences to its parent");
    }
    if (isEmpty && header === undefined) {
      throw this.#refusal(`${path} is a disk of no bytes`, `give it a size: \`qemu-img resize ${shellWord(path)} 1G\``);
    }
    if (needsReplay && (header !== undefined || this.#context.readOnly === true)) {
      const why = `${path} was not closed: its log has to be replayed, and it may only be read`;
      throw this.#refusal(why, `replay it: \`qemu-img check -r all ${shellWord(path)}\``);
    }
    if (!corrupt) return;
    throw this.#refusal(
      `${path} is marked as damaged`,
      `repair a copy of it: \`qemu-img check -r all ${shellWord(path)}\``,
    );
  }

  /** The same passphrase opens every image of the chain that is encrypted. */
  #withPassphrase(tree: BlockTree, { encrypted, encryption }: ImageInfo, path: string, { header }: Place): BlockTree {
    const file = this.#passphraseFile;
    if ("key-secret" in tree || "encrypt" in tree || (!encrypted && file === undefined)) return tree;
    if (!encrypted) {
      if (header !== undefined) return tree; // of the images of a chain, some may be encrypted
      throw this.#refusal(`${path} is not encrypted`, "leave passphrase-file= out");
    }
    if (file === undefined) {
      const target = shellWord(`format=${tree.driver},passphrase-file=FILE,target=${path}`);
      throw this.#refusal(`${path} is encrypted`, `name the file with its passphrase: ${target}`);
    }
    if (tree.driver === "luks") return { ...tree, "key-secret": file };
    return { ...tree, encrypt: { format: encryption ?? "aes", "key-secret": file } };
  }

  /** The backing file that a header names, complete; null: none. */
  async #backing(info: ImageInfo, path: string, place: Place): Promise<BlockTree | null> {
    const text = info.backingFilename;
    if (text === undefined) return null;
    const header = { text, what: "the backing file", path };
    return await this.complete(this.#headerTree(info, header), { ...place, header });
  }

  #headerTree({ backingFormat, fullBackingFilename }: ImageInfo, header: Header): BlockTree {
    const { text, path } = header;
    const named = this.#protocolTree(text, fullBackingFilename ?? text, header);
    if (isFormat(named.driver)) return named; // json: with a format
    const format = backingFormat === undefined ? undefined : canonicalFormat(backingFormat);
    if (format !== undefined && isFormat(format)) return { driver: format, file: named };
    const why = backingFormat === undefined
      ? `does not say the format of its backing file ${withoutPasswords(text)}, so QEMU would guess it from the content`
      : `says that its backing file has the format ${backingFormat}, which is unknown here`;
    throw this.#refusal(
      `the header of ${path} ${why}`,
      `write it there: \`qemu-img rebase -u -F FORMAT -b ${shellWord(withoutPasswords(text))} ${shellWord(path)}\``,
    );
  }

  /** As QEMU reads it: what precedes the first colon is a protocol, unless a slash precedes that. */
  #protocolTree(text: string, full: string, header: Header): BlockTree {
    if (text.startsWith("json:")) return this.#headerJson(text, header);
    if (withoutPasswords(text) !== text) {
      throw this.#refusal(
        `the header of ${header.path} names ${header.what} with a password`,
        "name the whole chain by json:",
      );
    }
    if (isStore(text)) return withSecretFiles(storeTree(text), this.#label, this.#context);
    const protocol = /^[^/:]*(?=:)/.exec(text)?.[0];
    const path = text.replace(/^file:/, "");
    if (protocol === undefined || protocol === "file") {
      if (path.startsWith("/")) return { driver: "file", filename: path };
      const directory = header.path.slice(0, header.path.lastIndexOf("/"));
      if (header.path.startsWith("/")) return { driver: "file", filename: `${directory}/${path}` };
      if (isStore(full)) return withSecretFiles(storeTree(full), this.#label, this.#context);
    }
    throw this.#refusal(
      `the header of ${header.path} names ${header.what} ${
        withoutPasswords(text)
      }, which is neither a path nor a known URI`,
      "name another in the header, or the whole chain by json:",
    );
  }

  /** QEMU's options in a header: files with secrets are named by a user only. */
  #headerJson(text: string, { what, path }: Header): BlockTree {
    const tree = parseTree(text.slice("json:".length), this.#label);
    const isAllowed = this.#allows(text);
    mapOptions(tree, (option, value) => {
      if (isAllowed || !(option.endsWith("-secret") || option === "tls-creds")) return value;
      throw this.#refusal(
        `the header of ${path} names ${what} with the secret ${option}`,
        "name the whole chain by json:",
      );
    });
    return withSecretFiles(tree, this.#label, this.#context);
  }

  #refusal(why: string, remedy: string, cause?: unknown): XenblkError {
    return new XenblkError(`Cannot open image ${this.#label}: ${why}`, {
      remedy,
      ...(cause === undefined ? {} : { cause }),
    });
  }
}
