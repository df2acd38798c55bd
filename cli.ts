#!/usr/bin/env -S deno run -A
/**
 * The command: gives the verbs of lib/cli the real hypervisor, which is loaded only when a verb asks for it, so that a
 * dry run opens no library.
 */

import denoJson from "./deno.json" with { type: "json" };
import { main } from "./lib/cli/main.ts";
import type { Host } from "./lib/cli/verb.ts";

const host: Host = {
  openNativePlatform: async () => (await import("./ffi/platform.ts")).openNativePlatform(),
};

// Exits even if a thread is still blocked in the kernel: by now every verb has released what it owned.
if (import.meta.main) Deno.exit(await main(Deno.args, host, denoJson.version));
