/**
 * Shows that the stand-ins for libxengnttab and libxenevtchn keep the contract of the real libraries, with the C
 * program src/fake_test.c, which uses only the public headers. Also shows that the resources of a killed process are
 * released.
 */

import { assertEquals } from "@std/assert";
import { missingParts, nativeTest, NativeXen } from "../harness.ts";

/** The names of the C program's checks. They are read from its sources, because it may not be built yet. */
function caseNames(): string[] {
  const sources = ["fake_test_grants.c", "fake_test_events.c"].map((name) =>
    Deno.readTextFileSync(new URL(`../src/${name}`, import.meta.url))
  );
  return sources.flatMap((text) => [...text.matchAll(/^ {4}\{ "([^"]+)", \w+ \},$/gm)].map((match) => match[1]!))
    .filter((name) => !name.startsWith("--"));
}

async function startWithGuests(): Promise<NativeXen> {
  const xen = await NativeXen.start();
  await xen.createDomain(1);
  await xen.createDomain(2);
  return xen;
}

nativeTest("all checks of the C program are found by name", async () => {
  await using xen = await NativeXen.start();
  const listed = (await xen.run(`${xen.libraries}/fake_test`, ["--list"])).trim().split("\n");
  assertEquals(listed.filter((name) => !name.startsWith("--")), caseNames());
});

for (const name of caseNames()) {
  nativeTest(name, async () => {
    await using xen = await startWithGuests();
    const idle = await xen.stats();
    await xen.run(`${xen.libraries}/fake_test`, [name]);
    const after = await xen.stats();
    assertEquals([after.framesUsed, after.domains], [idle.framesUsed, idle.domains], "nothing is left behind");
  });
}

nativeTest("a killed process holds nothing", async () => {
  await using xen = await startWithGuests();
  const idle = await xen.stats();
  const options: Deno.CommandOptions = { args: ["--hold"], env: xen.env(), stdout: "piped" };
  const child = new Deno.Command(`${xen.libraries}/fake_test`, options).spawn();
  const reader = child.stdout.getReader();
  await reader.read();
  assertEquals((await xen.processStats(child.pid))?.mappedPages, 2);
  assertEquals((await xen.stats()).domains.find((domain) => domain.domid === 1)?.grants, 4);
  child.kill("SIGKILL");
  await reader.cancel();
  await child.status;
  const deadline = performance.now() + 30_000;
  // The kernel kills the granting child of that process a moment later.
  while ((await xen.stats()).processes.length > idle.processes.length && performance.now() < deadline);
  assertEquals((await xen.stats()).domains, idle.domains);
});

nativeTest("the machine stays consistent when processes are killed at any instruction", async () => {
  await using xen = await startWithGuests();
  const idle = await xen.stats();
  /** Runs a process with `--churn` for a while and kills it. Returns its error messages. */
  const killOne = async (domid: number, afterMs: number): Promise<string> => {
    const options: Deno.CommandOptions = { args: ["--churn"], env: xen.env(domid), stdout: "piped", stderr: "piped" };
    const child = new Deno.Command(`${xen.libraries}/fake_test`, options).spawn();
    const reader = child.stdout.getReader();
    await reader.read();
    await new Promise((resolve) => setTimeout(resolve, afterMs));
    child.kill("SIGKILL");
    await reader.cancel();
    const words = await new Response(child.stderr).text();
    await child.status;
    return words;
  };
  for (let round = 0; round < 40; round++) {
    const words = await Promise.all([killOne(0, 1 + round % 7), killOne(1, 2 + round % 5), killOne(1, 3 + round % 3)]);
    assertEquals(words, ["", "", ""], `round ${round}`);
  }
  const after = await xen.stats();
  assertEquals([after.framesUsed, after.domains], [idle.framesUsed, idle.domains]);
  await xen.run("xenstore-read", ["/local/domain/1/name"]);
});

nativeTest("the stand-ins export the same symbols and versions as the real libraries", async () => {
  await using xen = await NativeXen.start();
  const real = realLibraryDirectory();
  for (const name of ["gnttab", "evtchn", "call", "foreignmemory"].map((part) => `libxen${part}.so.1`)) {
    assertEquals(await symbols(xen, `${xen.libraries}/${name}`), await symbols(xen, `${real}/${name}`), name);
  }
});

function realLibraryDirectory(): string {
  for (const entry of Deno.readDirSync("/usr/lib")) {
    try {
      Deno.statSync(`/usr/lib/${entry.name}/libxengnttab.so.1`);
      return `/usr/lib/${entry.name}`;
    } catch { /* not this architecture, or not a library directory */ }
  }
  throw new Error(`Cannot find the real libxengnttab.so.1: ${missingParts() ?? "Debian package libxengnttab1"}`);
}

/** Exported functions as `version name`. */
async function symbols(xen: NativeXen, path: string): Promise<string[]> {
  const lines = (await xen.run("objdump", ["-T", path])).split("\n");
  return lines.filter((line) => line.includes(" DF .text")).map((line) => line.split(/\s+/).slice(-2).join(" ")).sort();
}
