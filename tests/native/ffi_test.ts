/**
 * The FFI layer with the real libxenstore and xenstored, and the stand-ins for libxengnttab and libxenevtchn. Each
 * scenario runs in its own process, because the environment at its start selects the libraries.
 */

import { assertEquals, assertLess, assertStringIncludes } from "@std/assert";
import { EVENT_SCENARIOS } from "./ffi_event_scenarios.ts";
import { GRANT_SCENARIOS } from "./ffi_grant_scenarios.ts";
import { STORE_SCENARIOS } from "./ffi_store_scenarios.ts";
import { nativeTest, NativeXen } from "./harness.ts";

const CHILD = new URL("./ffi_child.ts", import.meta.url).pathname;
const RESTARTED = "a new connection reaches a restarted xenstored";
const NO_RIGHTS = "a user without permission on the socket gets an error that says so";
/** Parts of other scenarios, and scenarios that need a test of their own. */
const NOT_ALONE = new Set(["writes a storm", "binds and sleeps", RESTARTED, NO_RIGHTS]);

/** Runs a scenario in a process of domain 0. Throws with its messages if it fails. */
async function runScenario(xen: NativeXen, name: string): Promise<void> {
  const start = performance.now();
  await xen.run(Deno.execPath(), ["run", "-A", CHILD, name, String(xen.xenstoredPid)]);
  assertLess(performance.now() - start, 30_000, "the process ends by itself");
}

/** A host with the two guests of the scenarios. */
async function startXen(): Promise<NativeXen> {
  const xen = await NativeXen.start();
  await xen.createDomain(1);
  await xen.createDomain(2);
  return xen;
}

for (
  const [room, scenarios] of Object.entries({
    xenstore: STORE_SCENARIOS,
    gnttab: GRANT_SCENARIOS,
    evtchn: EVENT_SCENARIOS,
  })
) {
  nativeTest(`ffi/${room} on real parts`, async (context) => {
    await using xen = await startXen();
    for (const name of Object.keys(scenarios)) {
      if (NOT_ALONE.has(name)) continue;
      await context.step(name, async () => {
        await runScenario(xen, name);
        if (/ (killed|stopped)/.test(name)) {
          await xen.stopXenstored("SIGKILL");
          await xen.startXenstored();
        }
      });
    }
    const { processes } = await xen.stats();
    assertEquals(processes.filter(({ pid }) => pid !== xen.xenstoredPid), [], "no process left anything behind");
  });
}

nativeTest(`ffi/xenstore: ${RESTARTED}`, async () => {
  await using xen = await startXen();
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", CHILD, RESTARTED],
    env: xen.env(),
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const reader = child.stdout.getReader();
  assertStringIncludes(new TextDecoder().decode((await reader.read()).value), "ready");
  await xen.restartXenstored();
  reader.releaseLock();
  const { success, stderr } = await child.output();
  assertEquals([success, new TextDecoder().decode(stderr)], [true, ""]);
});

nativeTest(`ffi/xenstore: ${NO_RIGHTS}`, async () => {
  await using xen = await startXen();
  Deno.chmodSync(xen.socketPath, 0);
  // Root without capabilities: file modes apply to it.
  const script = `exec setpriv --bounding-set=-all --inh-caps=-all "$@"`;
  await xen.run("sh", ["-c", script, "sh", Deno.execPath(), "run", "-A", CHILD, NO_RIGHTS]);
});
