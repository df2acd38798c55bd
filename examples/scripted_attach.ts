// deno-lint-ignore-file no-console -- this is a program
/**
 * A scripted attach: attaches a disk to a running guest, serves it until the program is interrupted or the disk is
 * detached, and prints the statistics of the disk.
 *
 *     deno run -A examples/scripted_attach.ts DOMAIN IMAGE [VDEV]
 */

import { attach, type AttachOptions, XenblkError } from "xenblk";

/** Attaches the disk, serves it to the end, and returns the exit status. */
async function main([domain, image, vdev]: readonly string[]): Promise<number> {
  if (domain === undefined || image === undefined) {
    console.error("usage: scripted_attach.ts DOMAIN IMAGE [VDEV]");
    return 2;
  }
  const options: AttachOptions = { domain, image, timeoutMs: 30_000, ...(vdev === undefined ? {} : { vdev }) };
  await using disk = await attach(options);
  console.log(`${disk.vdev} of ${disk.guest.name ?? `domain ${disk.guest.domain}`} is ${disk.params}`);

  const interrupted = Promise.withResolvers<undefined>();
  const interrupt = (): void => interrupted.resolve(undefined);
  Deno.addSignalListener("SIGINT", interrupt);
  const end = await Promise.race([interrupted.promise, disk.ended]);
  Deno.removeSignalListener("SIGINT", interrupt);

  const { operations, sinceMs } = await disk.stats();
  for (const [name, { requests, bytes, errors }] of Object.entries(operations)) {
    console.log(`${name}: ${requests} requests, ${bytes} bytes, ${errors} errors`);
  }
  console.log(`${disk.vdev} was attached for ${(sinceMs / 1000).toFixed(1)} s`);
  if (end?.reason === "failed") throw end.error;
  if (end === undefined) await disk.detach();
  return 0;
}

try {
  // The process ends by itself once the disk is disposed, so Deno.exit() is not needed.
  Deno.exitCode = await main(Deno.args);
} catch (error) {
  if (!(error instanceof XenblkError)) throw error;
  console.error(error.line);
  Deno.exitCode = error.exitStatus;
}
