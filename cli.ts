#!/usr/bin/env -S deno run -A
/**
 * The command: brings the verbs of lib/cli together with the real hypervisor of ffi, which is imported only when a
 * verb asks for it, so that a dry run opens no library. Arguments, messages and exit status are lib/cli's.
 */

import denoJson from "./deno.json" with { type: "json" };
import type { Host } from "./lib/cli/host.ts";
import { main } from "./lib/cli/main.ts";

const host: Host = {
  openNativePlatform: async () => (await import("./ffi/platform.ts")).openNativePlatform(),
};

// Exits even if a thread is still blocked in the kernel: by now every verb has released what it owned.
if (import.meta.main) Deno.exit(await main(Deno.args, host, denoJson.version));
