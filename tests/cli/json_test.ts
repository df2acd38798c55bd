/**
 * What verbs print for programs and with `-q`, in this process, on a simulated host whose disks are served: results and
 * errors as JSON, and nothing but data and errors.
 */

import { assertEquals, assertStringIncludes } from "@std/assert";
import { main } from "../../lib/cli/main.ts";
import { Output } from "../../lib/cli/output.ts";
import { SILENT } from "../../lib/log.ts";
import { type TestHost, testHost } from "../../testing.ts";
import { hostOf } from "./golden/scene.ts";
import type { Outcome } from "./command.ts";

/** Runs a verb on the host, with both streams on pipes. */
async function run(host: TestHost, ...args: string[]): Promise<Outcome> {
  const streams = { stdout: "", stderr: "" };
  const sink = (name: keyof typeof streams): { writeSync(bytes: Uint8Array): number; isTerminal(): boolean } => ({
    writeSync: (bytes) => (streams[name] += new TextDecoder().decode(bytes), bytes.length),
    isTerminal: () => false,
  });
  const status = await main(args, await hostOf(host), "0.0.0", new Output(sink("stdout"), sink("stderr")));
  return { status, ...streams };
}

Deno.test("resize and detach print what they did as JSON, and with -q nothing", async () => {
  const image = await Deno.makeTempFile();
  await Deno.truncate(image, 2 ** 20);
  await using undo = new AsyncDisposableStack();
  undo.defer(() => Deno.remove(image));
  await using host = await testHost();
  await using _service = await host.serve({ logger: SILENT });
  const guest = await host.startGuest({ name: "web" });
  for (const vdev of ["xvda", "xvdb"]) guest.addDisk({ image: vdev === "xvda" ? image : "memory:1M", vdev });
  for (const vdev of ["xvda", "xvdb"]) await guest.connect(vdev);
  const disk = { backendDomain: 0, kind: "vbd3", frontendDomain: 1, vdev: 51712, name: "xvda", domainName: "web" };

  const resized = await run(host, "resize", "web", "xvda", "2M", "--json");
  assertEquals([resized.status, resized.stderr], [0, ""]);
  assertEquals(JSON.parse(resized.stdout), { ...disk, sizeBytes: 2 ** 21, sizeBytesBefore: 2 ** 20 });
  assertEquals(await run(host, "resize", "web", "xvda", "-q"), { status: 0, stdout: "", stderr: "" });

  const detached = await run(host, "detach", "web", "xvda", "-J");
  assertEquals([detached.status, detached.stderr], [0, ""]);
  assertEquals(JSON.parse(detached.stdout), { ...disk, detached: true });
  assertEquals(await run(host, "detach", "web", "xvdb", "--quiet"), { status: 0, stdout: "", stderr: "" });

  const gone = await run(host, "detach", "web", "xvda", "--json", "--quiet");
  assertEquals([gone.status, gone.stdout], [3, ""]);
  const { error } = JSON.parse(gone.stderr);
  assertEquals([error.kind, error.exitStatus, error.remedy], ["not-found", 3, "see `xenblk list`"]);
  assertStringIncludes(error.message, "Cannot find disk xvda of domain 1");
  assertStringIncludes((await run(host, "detach", "web", "xvda", "-q")).stderr, "xenblk: Cannot find disk xvda");
});
