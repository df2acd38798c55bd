/**
 * Shows that state nodes are read strictly, and that the states and domain ids are those of Xen's headers.
 */

import { assertEquals } from "@std/assert";
import { MAX_DOMID } from "../../lib/xenbus/paths.ts";
import { type ObservedState, parseState, stateName, XenbusState } from "../../lib/xenbus/states.ts";
import { INFO_CDROM, INFO_READ_ONLY, INFO_REMOVABLE } from "../../lib/xenbus/features.ts";
import { evaluate, evaluateStrings, reportMissingPart } from "../blkif/c_facts.ts";
import { ABI_NAMES } from "../../lib/blkif/abi.ts";
import { ABIS } from "../../lib/blkif/abi.ts";

const ignore = await reportMissingPart("xenbus states against Xen's headers");

Deno.test({
  name: "states, info bits, protocols and the largest domain id are those of Xen's headers",
  ignore,
  fn: async () => {
    const states = Object.entries(XenbusState).map(([name, ours]) => [`XenbusState${name}`, ours] as const);
    const rows = [
      ...states,
      ["DOMID_FIRST_RESERVED - 1", MAX_DOMID],
      ["VDISK_CDROM", INFO_CDROM],
      ["VDISK_REMOVABLE", INFO_REMOVABLE],
      ["VDISK_READONLY", INFO_READ_ONLY],
    ] as const;
    assertEquals(await evaluate(rows.map(([expression]) => expression), "x86_64"), rows.map(([, ours]) => ours));
    const names = await evaluateStrings(["X86_64", "X86_32", "ARM"].map((arch) => `XEN_IO_PROTO_ABI_${arch}`));
    assertEquals<string[]>([...ABI_NAMES], names);
  },
});

Deno.test("every protocol that is negotiated has a layout, and every layout can be negotiated", () => {
  assertEquals<string[]>([...ABI_NAMES].sort(), Object.keys(ABIS).sort());
});

Deno.test("the digits 0 to 8 are states, a missing node is gone, and nothing else is a state", () => {
  for (let state = 0; state <= 8; state++) assertEquals<ObservedState>(parseState(String(state)), state as XenbusState);
  assertEquals(parseState(undefined), "gone");
  const nonsense = ["", " ", "9", "-1", "+4", "04", "4 ", " 4", "4\n", "4\0", "0x4", "4.0", "1e0", "Connected", "٤"];
  for (const text of nonsense) assertEquals(parseState(text), "invalid", JSON.stringify(text));
});

Deno.test("states have the names of xenbus.h", () => {
  const states: ObservedState[] = [0, 1, 2, 3, 4, 5, 6, 7, 8, "gone", "invalid"];
  assertEquals(states.map(stateName), [
    "Unknown",
    "Initialising",
    "InitWait",
    "Initialised",
    "Connected",
    "Closing",
    "Closed",
    "Reconfiguring",
    "Reconfigured",
    "gone",
    "invalid",
  ]);
});
