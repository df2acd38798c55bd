/**
 * A read-only disk behind a web server: each read becomes a range request.
 *
 *     xenblk attach web plugin:examples/http_disk.ts?https://example.org/disk.img --plugin-allow net=example.org
 */

import { defineDisk, type DiskMethods } from "xenblk";

/** Reads one range. Throws with what the server answered instead, and the guest gets an I/O error. */
async function readRange(url: string, version: string | null, offset: number, into: Uint8Array): Promise<void> {
  const headers = new Headers({ range: `bytes=${offset}-${offset + into.length - 1}` });
  // Parts of two versions of a file must not be mixed: the server answers 412 once it has another one.
  if (version !== null) headers.set("if-match", version);
  const response = await fetch(url, { headers });
  const bytes = await response.bytes();
  if (response.status !== 206 || bytes.length !== into.length) {
    throw new Error(`${url}: ${response.status} ${response.statusText}, ${bytes.length} bytes`);
  }
  into.set(bytes);
}

export default defineDisk({
  async open(url, { signal }): Promise<DiskMethods> {
    const response = await fetch(url, { method: "HEAD", signal });
    if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
    if (response.headers.get("accept-ranges") !== "bytes") throw new Error(`${url}: the server has no range requests`);
    const version = response.headers.get("etag");
    return {
      sizeBytes: Number(response.headers.get("content-length")),
      // Many reads are in flight at a time; each is a request of its own.
      read: (offset, into) => readRange(url, version?.startsWith("W/") ? null : version, offset, into),
    };
  },
});
