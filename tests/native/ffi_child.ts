/**
 * Runs one scenario of the FFI layer, named by the first argument, in the environment that ffi_test.ts gives: the real
 * libxenstore and xenstored, stand-ins for libxengnttab and libxenevtchn. A failed assertion ends it with status 1.
 */

import { EVENT_SCENARIOS } from "./ffi_event_scenarios.ts";
import { GRANT_SCENARIOS } from "./ffi_grant_scenarios.ts";
import { STORE_SCENARIOS } from "./ffi_store_scenarios.ts";

const [name = "", ...args] = Deno.args;
const scenario = { ...STORE_SCENARIOS, ...GRANT_SCENARIOS, ...EVENT_SCENARIOS }[name];
if (scenario === undefined) throw new Error(`Cannot run a scenario: none is called ${name}`);
await scenario(...args);
