/**
 * `deno task deb [FOLDER]`: writes the Debian package into the folder (by default the working one), and prints its path
 * and sizes.
 */

import { errorText, XenblkError } from "../../lib/errors.ts";
import { makeDebianPackage } from "./package.ts";

const ROOT = new URL("../../", import.meta.url).pathname;

async function main(args: readonly string[]): Promise<void> {
  const [folder = ".", ...rest] = args;
  if (rest.length > 0 || folder.startsWith("-")) {
    throw new XenblkError(`Cannot make the Debian package: ${rest[0] ?? folder} is not expected`, {
      kind: "usage",
      remedy: "usage: deno task deb [FOLDER]",
    });
  }
  const { path, sizeBytes, installedBytes } = await makeDebianPackage(ROOT, folder);
  const mib = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
  print(Deno.stdout, `${path}: ${mib(sizeBytes)}; ${mib(installedBytes)} installed`);
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
