/**
 * A thread that says what time it is on its platform's clock.
 */

/// <reference lib="deno.worker" />

import { openPlatform } from "../../lib/modules.ts";

self.onmessage = async ({ data }): Promise<void> => self.postMessage((await openPlatform(data)).now());
