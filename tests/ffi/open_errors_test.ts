/**
 * What a person reads when the Xen libraries are there and Xen is not: the socket, the device node, and the way out.
 */

import { assertEquals } from "@std/assert";
import { runScript } from "./child.ts";

const SCRIPT = `
  import { openNativePlatform } from "./ffi/platform.ts";
  const platform = openNativePlatform();
  const openers = [
    () => platform.openXenstore(),
    () => platform.openGrantTable(1),
    () => platform.openEventChannels(1),
    () => platform.openGrantShares(),
  ];
  for (const open of openers) {
    try {
      open();
      console.log("opened");
    } catch (error) {
      console.log(error.kind, error.line);
    }
  }`;

/** The reason why this machine cannot show the errors, or undefined. */
function missingParts(): string | undefined {
  const libraries = [
    ["libxengnttab.so.1", "libxengnttab1"],
    ["libxenevtchn.so.1", "libxenevtchn1"],
  ] as const;
  for (const [soname, debianPackage] of libraries) {
    try {
      Deno.dlopen(soname, {}).close();
    } catch {
      return `${soname} is missing (Debian package ${debianPackage})`;
    }
  }
  try {
    Deno.statSync("/dev/xen");
    return "this machine runs under Xen (/dev/xen is there)";
  } catch {
    return undefined;
  }
}

const missing = missingParts();
// deno-lint-ignore no-console -- why a test is ignored is to be seen
if (missing !== undefined) console.log(`errors without Xen: ignored, ${missing}`);

Deno.test(
  { name: "without Xen, every opener says what is missing and what to do", ignore: missing !== undefined },
  async () => {
    const result = await runScript(SCRIPT, ["-A"], { XENSTORED_PATH: "/nowhere/socket" });
    const noModule = (name: string): string =>
      `No such file or directory (ENOENT); load the kernel module (modprobe ${name}); ` +
      "it needs a kernel that runs under Xen";
    assertEquals(result.stdout.trimEnd().split("\n"), [
      "hypervisor Cannot connect to xenstored: neither /nowhere/socket nor /dev/xen/xenbus exists; " +
      "start xenstored (on Debian: systemctl start xen), or run in dom0 or in a driver domain",
      `hypervisor Cannot open the grant table: /dev/xen/gntdev: ${noModule("xen-gntdev")}`,
      `hypervisor Cannot open event channels: /dev/xen/evtchn: ${noModule("xen-evtchn")}`,
      `hypervisor Cannot open page granting: /dev/xen/gntalloc: ${noModule("xen-gntalloc")}`,
    ], result.stderr);
    assertEquals(result.stderr, "", "the Xen libraries print nothing themselves");
  },
);

Deno.test(
  { name: "a socket without a listener is distinguished from a missing one", ignore: missing !== undefined },
  async () => {
    const directory = await Deno.makeTempDir();
    try {
      const path = `${directory}/socket`;
      // Binding makes the socket's file, which outlives the process that listened.
      const listen = `const l = Deno.listen({ transport: "unix", path: "${path}" }); Deno.exit(l ? 0 : 1);`;
      await runScript(listen, ["-A"]);
      const { stdout } = await runScript(SCRIPT, ["-A"], { XENSTORED_PATH: path });
      assertEquals(
        stdout.split("\n")[0],
        `hypervisor Cannot connect to xenstored: ${path} is there, but nobody answers; ` +
          "start xenstored (on Debian: systemctl start xen)",
      );
    } finally {
      await Deno.remove(directory, { recursive: true });
    }
  },
);
