/**
 * What the tests of the image verbs share: a directory that is removed, real images made by qemu-img itself, and another
 * process that uses an image.
 */

import { assertEquals } from "@std/assert";

/** Whether QEMU's tools are installed (Debian: qemu-utils). */
const HAS_QEMU = [..."qemu-img qemu-io".split(" ")].every((name) =>
  (Deno.env.get("PATH") ?? "").split(":").some((directory) => isFile(`${directory}/${name}`))
);

function isFile(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
}

/** Registers a test that gets a new directory; it is skipped where QEMU's tools are missing, or the right to mount. */
export function testImages(name: string, test: (directory: string) => Promise<void>, needsRoot = false): void {
  Deno.test({
    name,
    ignore: !HAS_QEMU || (needsRoot && Deno.uid() !== 0),
    fn: async () => {
      const directory = await Deno.makeTempDir({ prefix: "xenblk-image-" });
      try {
        await test(directory);
      } finally {
        await Deno.remove(directory, { recursive: true });
      }
    },
  });
}

/** Runs one of QEMU's tools, which must succeed; returns what it printed. */
export async function qemu(tool: "qemu-img" | "qemu-io", ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await new Deno.Command(tool, { args }).output();
  const decoder = new TextDecoder();
  assertEquals([code, decoder.decode(stderr)], [0, ""], `${tool} ${args.join(" ")}`);
  return decoder.decode(stdout);
}

/** The names in a directory, in order. */
export function namesIn(directory: string): string[] {
  return [...Deno.readDirSync(directory)].map(({ name }) => name).sort();
}

/** Another process that has the image open, by default for writing, and so holds its lock; disposing ends it. */
export async function useElsewhere(format: string, path: string, options: string[] = []): Promise<AsyncDisposable> {
  const child = new Deno.Command("qemu-io", { args: ["-f", format, ...options, path], stdin: "piped", stdout: "piped" })
    .spawn();
  const reader = child.stdout.getReader();
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode("length\n"));
  // It answers once the image is open.
  for (let text = ""; !/\d+ [KMG]iB/.test(text);) {
    const { value, done } = await reader.read();
    if (done) throw new Error(`qemu-io ended: ${text}`);
    text += new TextDecoder().decode(value);
  }
  return {
    [Symbol.asyncDispose]: async (): Promise<void> => {
      await writer.close();
      await reader.cancel();
      await child.status;
    },
  };
}

/** A small file system that fills up; disposing unmounts it. Only root may mount. */
export async function smallFileSystem(directory: string, size: string): Promise<AsyncDisposable> {
  const run = async (program: string, ...args: string[]): Promise<void> => {
    assertEquals((await new Deno.Command(program, { args }).output()).code, 0, `${program} ${args.join(" ")}`);
  };
  await run("mount", "-t", "tmpfs", "-o", `size=${size}`, "tmpfs", directory);
  return { [Symbol.asyncDispose]: () => run("umount", directory) };
}

/** qcow2's header (docs/interop/qcow2.txt): where the fields are that these tests change. */
const INCOMPATIBLE_LOW_BYTE = 79;
const REFCOUNT_TABLE_FIELD = 48;

/** Sets a bit of a qcow2 image's incompatible features: 1 is dirty, 2 is corrupt. */
export function setIncompatible(path: string, bit: number): void {
  using file = Deno.openSync(path, { read: true, write: true });
  const byte = new Uint8Array(1);
  file.seekSync(INCOMPATIBLE_LOW_BYTE, Deno.SeekMode.Start);
  file.readSync(byte);
  file.seekSync(INCOMPATIBLE_LOW_BYTE, Deno.SeekMode.Start);
  file.writeSync(new Uint8Array([byte[0]! | bit]));
}

/** Sets the 16-bit reference count of a cluster in the image's first refcount block. */
export function setRefcount(path: string, cluster: number, count: number): void {
  using file = Deno.openSync(path, { read: true, write: true });
  const pointer = (offset: number): number => {
    const bytes = new Uint8Array(8);
    file.seekSync(offset, Deno.SeekMode.Start);
    file.readSync(bytes);
    return Number(new DataView(bytes.buffer).getBigUint64(0));
  };
  const block = pointer(pointer(REFCOUNT_TABLE_FIELD));
  file.seekSync(block + 2 * cluster, Deno.SeekMode.Start);
  file.writeSync(new Uint8Array([count >> 8, count & 0xFF]));
}
