/**
 * What an image's header says, read by `qemu-img info` in a process that is killed if the storage does not answer. It opens
 * the image alone: no backing file, and nothing for writing.
 */

import { XenblkError } from "../../errors.ts";
import { endsWithin } from "../../within.ts";
import { type TreeObjects, withObjects } from "./graph.ts";
import { type BlockTree, isRecord } from "./tree.ts";

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
/** How long a killed process may take to end; one that waits in the kernel ends when its storage answers. */
const KILL_MS = 1000;
/** Most output: a header with thousands of snapshots is longer. */
const MOST_OUTPUT_BYTES = 8 << 20;

/** Images that a killed process still waits for. Another process would wait like it. */
const stuck = new Set<string>();

/** Runs `qemu-img`. */
export class QemuImg implements ImageInspector {
  readonly #program: string;
  readonly #limitMs: number;

  /** `program` is a name to be found in PATH, or a path. */
  constructor(program = "qemu-img", limitMs = LIMIT_MS) {
    this.#program = program;
    this.#limitMs = limitMs;
  }

  async inspect(tree: BlockTree, label: string): Promise<ImageInfo> {
    const { tree: named, objects } = withObjects(tree, "info");
    // As the daemon opens it: QEMU takes `detect-zeroes=unmap` with this only.
    const image = `json:${JSON.stringify({ discard: "unmap", ...named })}`;
    const args = ["info", "--output=json", "--force-share", ...objectArguments(objects), "--", image];
    const { success, stdout, stderr } = await this.#run(args, image, label);
    if (success) return readInfo(stdout);
    throw cannotOpen(label, stderr, tree);
  }

  async #run(args: string[], image: string, label: string): Promise<Output> {
    if (stuck.has(image)) throw noAnswer(label, "an earlier qemu-img still waits for it");
    const child = this.#start(args, label);
    const output = readAll(child);
    if (await endsWithin(output, this.#limitMs)) return await output;
    output.catch(() => {}); // killing it ends the reading
    kill(child);
    if (!await endsWithin(child.status, KILL_MS)) {
      stuck.add(image);
      child.unref();
      child.status.then(() => stuck.delete(image));
    }
    throw noAnswer(label, `qemu-img was killed after ${this.#limitMs / 1000} s`);
  }

  #start(args: string[], label: string): Deno.ChildProcess {
    try {
      const env = { LC_ALL: "C" };
      const options = { args, env, stdin: "null", stdout: "piped", stderr: "piped" } as const;
      return new Deno.Command(this.#program, options).spawn();
    } catch (error) {
      throw cannotRun(this.#program, label, error);
    }
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
    ...(Array.isArray(data["extents"]) ? { extents: data["extents"].length } : {}),
  };
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
];

/** The options of QEMU's tools that create the objects. */
export function objectArguments({ secrets, credentials }: TreeObjects): string[] {
  const option = (text: string): string => text.replaceAll(",", ",,");
  return [
    ...secrets.flatMap(({ id, file }) => ["--object", `secret,id=${id},file=${option(file)}`]),
    ...credentials.flatMap(({ id, directory }) => [
      "--object",
      `tls-creds-x509,id=${id},endpoint=client,dir=${option(directory)}`,
    ]),
  ];
}

/** What a process printed. */
interface Output {
  readonly success: boolean;
  readonly stdout: string;
  readonly stderr: string;
}

async function readAll(child: Deno.ChildProcess): Promise<Output> {
  const [stdout, stderr, { success }] = await Promise.all([
    textOf(child.stdout, child),
    textOf(child.stderr, child),
    child.status,
  ]);
  return { success, stdout, stderr };
}

/** Kills a process that prints too much: its output is cut off, and is no JSON then. */
async function textOf(stream: ReadableStream<Uint8Array<ArrayBuffer>>, child: Deno.ChildProcess): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  let bytes = 0;
  for await (const chunk of stream) {
    bytes += chunk.length;
    if (bytes <= MOST_OUTPUT_BYTES) text += decoder.decode(chunk, { stream: true });
    else kill(child);
  }
  return text;
}

function kill(child: Deno.ChildProcess): void {
  try {
    child.kill("SIGKILL");
  } catch {
    // it has ended already
  }
}

function parsed(json: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(json);
    if (isRecord(value)) return value;
  } catch {
    // reported below
  }
  throw new XenblkError("Cannot read what qemu-img says of the image: it is not JSON, or too long", {
    remedy: "check the image with `qemu-img info`",
  });
}

function noAnswer(label: string, why: string): XenblkError {
  return new XenblkError(`Cannot open image ${label}: its storage does not answer (${why})`, {
    remedy: "check the device or server that it is on",
  });
}

function cannotRun(program: string, label: string, error: unknown): XenblkError {
  const isDenied = error instanceof Deno.errors.NotCapable;
  const isMissing = error instanceof Deno.errors.NotFound;
  const why = isDenied
    ? "Deno was started without the permission"
    : isMissing
    ? "it is not installed"
    : (error as Error).message;
  return new XenblkError(`Cannot open image ${label}: ${program} cannot be run: ${why}`, {
    cause: error,
    ...(isDenied ? { remedy: `run deno with --allow-run=${program}` } : {}),
    ...(isMissing ? { remedy: "install the package qemu-utils" } : {}),
  });
}
