/**
 * A disk, as a plugin, whose content is what its process can reach: a line for each attempt, `name: ok` or the error.
 */

import { defineDisk, type DiskMethods } from "../../../../lib/storage/plugin/disk_methods.ts";

async function attempt(name: string, body: () => unknown): Promise<string> {
  try {
    await body();
    return `${name}: ok\n`;
  } catch (error) {
    return `${name}: ${(error as Error).name}\n`;
  }
}

export default defineDisk({
  async open(path): Promise<DiskMethods> {
    const lines = [
      await attempt("own folder", () => Deno.readTextFile(new URL(import.meta.url).pathname)),
      await attempt("passwd", () => Deno.readTextFile("/etc/passwd")),
      await attempt("path", () => Deno.readTextFile(path)),
      await attempt("write", () => Deno.writeTextFile(path, "changed")),
      await attempt("net", () => Deno.connect({ port: 1 })),
      await attempt("run", () => new Deno.Command("/bin/true").output()),
      await attempt("ffi", () => Deno.dlopen("libc.so.6", {})),
      await attempt("pointer", () => Deno.UnsafePointer.create(4096n)),
      await attempt("env", () => Deno.env.get("XENBLK_SECRET") !== undefined),
      `allowed env: ${await attempt("XENBLK_TOLD", () => Deno.env.get("XENBLK_TOLD"))}`,
      `cwd: ${new URL(".", import.meta.url).pathname === `${Deno.cwd()}/`}\n`,
      await attempt("store", () => localStorage.setItem("key", "value")),
      await attempt("cache", async () => await (await caches.open("it")).put("http://a/", new Response("text"))),
    ];
    const data = new Uint8Array(4096).fill(32);
    data.set(new TextEncoder().encode(lines.join("")));
    return { sizeBytes: data.length, read: (offset, into) => into.set(data.subarray(offset, offset + into.length)) };
  },
});
