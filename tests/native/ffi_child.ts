/**
 * Runs one scenario of the FFI layer; the first argument is its name. ffi_test.ts sets the environment: the real
 * xenstored, and stand-ins for libxengnttab and libxenevtchn. A failed assertion ends the process with
 * status 1.
 */

import { EVENT_SCENARIOS } from "./ffi_event_scenarios.ts";
import { GRANT_SCENARIOS } from "./ffi_grant_scenarios.ts";
import { STORE_SCENARIOS } from "./ffi_store_scenarios.ts";

const [name = "", ...args] = Deno.args;
const scenario = { ...STORE_SCENARIOS, ...GRANT_SCENARIOS, ...EVENT_SCENARIOS }[name];
if (scenario === undefined) throw new Error(`Cannot run a scenario: there is none with the name ${name}`);
await scenario(...args);
