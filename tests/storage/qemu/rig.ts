/**
 * Images made by qemu-img, and a storage daemon that opens a graph and says what it has open. No test is in here.
 */

import { assertEquals } from "@std/assert";
import type { BlockGraph } from "../../../lib/storage/qemu/graph.ts";
import { Folder } from "../rig.ts";

/** Runs a program to its end; throws with what it printed if it fails. */
export function run(program: string, ...args: string[]): string {
  const output = new Deno.Command(program, { args, stdin: "null" }).outputSync();
  const [stdout, stderr] = [output.stdout, output.stderr].map((bytes) => new TextDecoder().decode(bytes));
  if (!output.success) throw new Error(`${program} ${args.join(" ")}: ${stderr}`);
  return stdout!;
}

/** A folder for images. */
export class ImageFolder extends Folder {
  /** Makes an image of 8 MiB with further arguments for `qemu-img create`, and returns its path. */
  create(name: string, format: string, ...more: string[]): string {
    const path = `${this.path}/${name}`;
    for (let tries = 1;; tries++) {
      try {
        run("qemu-img", "create", "-q", "-f", format, ...more, path, "8M");
        return path;
      } catch (error) {
        // qemu-img times the key's derivation by getrusage, which sees no time pass on some machines.
        if (tries === 20 || !String(error).includes("accurate CPU usage")) throw error;
      }
    }
  }

  /** Makes a qcow2 image on a backing file, as it is named in the header. */
  overlay(name: string, backing: string, format: string): string {
    const path = this.create(name, "qcow2");
    // create would look at the backing file; rebase -u only writes the header.
    run("qemu-img", "rebase", "-q", "-u", "-f", "qcow2", "-F", format, "-b", backing, path);
    return path;
  }
}

/** Takes the format of the backing file out of a qcow2 header, as old versions of qemu-img left it out. */
export function forgetBackingFormat(path: string): void {
  using file = Deno.openSync(path, { read: true, write: true });
  const header = new Uint8Array(4096);
  file.readSync(header);
  const at = header.findIndex((_, at) => new DataView(header.buffer).getUint32(Math.min(at, 4092)) === 0xE2792ACA);
  file.seekSync(at, Deno.SeekMode.Start);
  file.writeSync(new Uint8Array([0, 0, 0, 1])); // an extension that nobody knows
}

/** Answers of QMP. */
interface Answer {
  readonly return?: unknown;
  readonly error?: { readonly desc: string };
}

/** What a daemon has made of a graph. */
export interface OpenedGraph {
  /** Names of all nodes that it has. */
  readonly nodes: readonly string[];
  /** The size of the exported node. */
  readonly sizeBytes: number;
  /** The names of regular files and devices that it has open. */
  readonly files: readonly string[];
}

/**
 * Lets a storage daemon open a graph, and ends it. Throws Error with QEMU's words if it does not take a node.
 */
export async function openByDaemon(graph: BlockGraph): Promise<OpenedGraph> {
  const args = ["--chardev", "stdio,id=qmp", "--monitor", "chardev=qmp"];
  const options = { args, stdin: "piped", stdout: "piped", stderr: "inherit" } as const;
  await using daemon = new Deno.Command("qemu-storage-daemon", options).spawn();
  const writer = daemon.stdin.getWriter();
  const lines = daemon.stdout.pipeThrough(new TextDecoderStream()).pipeThrough(new LineStream()).getReader();
  const ask = async (execute: string, options: object): Promise<unknown> => {
    await writer.write(new TextEncoder().encode(`${JSON.stringify({ execute, arguments: options })}\n`));
    for (;;) {
      const { value, done } = await lines.read();
      if (done) throw new Error(`the daemon ended at ${execute}`);
      const answer = JSON.parse(value) as Answer;
      if (answer.error !== undefined) throw new Error(answer.error.desc);
      if ("return" in answer) return answer.return;
    }
  };
  try {
    await ask("qmp_capabilities", {});
    for (const secret of graph.secrets) await ask("object-add", { "qom-type": "secret", ...secret });
    for (const { id, directory: dir } of graph.credentials ?? []) {
      await ask("object-add", { "qom-type": "tls-creds-x509", endpoint: "client", id, dir });
    }
    for (const node of graph.nodes) await ask("blockdev-add", node);
    type Named = { readonly "node-name": string; readonly image: { readonly "virtual-size": number } };
    const nodes = await ask("query-named-block-nodes", { flat: true }) as Named[];
    const top = nodes.find((node) => node["node-name"] === graph.top)!;
    return {
      nodes: nodes.map((node) => node["node-name"]).sort(),
      sizeBytes: top.image["virtual-size"],
      files: openFiles(daemon.pid),
    };
  } finally {
    daemon.kill("SIGKILL");
    await writer.close().catch(() => {});
    await lines.cancel();
    await daemon.status;
  }
}

/** Lets a daemon open a graph; asserts that it has no other node and file than those of the graph. */
export async function assertOpens(graph: BlockGraph): Promise<OpenedGraph> {
  const opened = await openByDaemon(graph);
  assertEquals(opened.nodes, graph.nodes.map((node) => node["node-name"]).sort());
  const local = graph.files.map(({ path }) => path).filter((path) => !Deno.statSync(path).isSocket);
  assertEquals(opened.files, [...new Set(local)].sort());
  return opened;
}

function openFiles(pid: number): string[] {
  const links = [...Deno.readDirSync(`/proc/${pid}/fd`)].map(({ name }) =>
    Deno.readLinkSync(`/proc/${pid}/fd/${name}`)
  );
  const files = links.filter((link) =>
    link.startsWith("/") && link !== "/dev/null" && !/^\/(memfd|dev\/pts)/.test(link)
  );
  return [...new Set(files)].sort();
}

/** Lines of a text that arrives in pieces. */
class LineStream extends TransformStream<string, string> {
  constructor() {
    let rest = "";
    super({
      transform: (chunk, controller) => {
        const lines = (rest + chunk).split("\n");
        rest = lines.pop()!;
        for (const line of lines) if (line.trim() !== "") controller.enqueue(line);
      },
    });
  }
}
