/**
 * `deno task pack [FOLDER]`: writes the npm package's tarball into the folder (by default the working one), and prints
 * its path and size.
 */

import { errorText, XenblkError } from "../lib/errors.ts";
import { pack } from "./package.ts";

const ROOT = new URL("../", import.meta.url).pathname;

async function main(args: readonly string[]): Promise<void> {
  const [folder = ".", ...rest] = args;
  if (rest.length > 0 || folder.startsWith("-")) {
    const wrong = rest[0] ?? folder;
    throw new XenblkError(`Cannot pack: ${wrong} is not expected`, {
      kind: "usage",
      remedy: "usage: deno task pack [FOLDER]",
    });
  }
  const { path, sizeBytes, unpackedBytes, fileCount } = await pack(ROOT, folder);
  const kib = (bytes: number): string => `${Math.ceil(bytes / 1024)} KiB`;
  print(Deno.stdout, `${path}: ${kib(sizeBytes)}; ${fileCount} files, ${kib(unpackedBytes)} installed`);
}

function print(stream: { writeSync(bytes: Uint8Array): number }, line: string): void {
  stream.writeSync(new TextEncoder().encode(`${line}\n`));
}

try {
  await main(Deno.args);
} catch (error) {
  print(Deno.stderr, errorText(error));
  Deno.exitCode = error instanceof XenblkError ? error.exitStatus : 1;
}
