/**
 * Shows where a device's nodes are, and how the path of a backend directory is taken apart or refused.
 */

import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { XenblkError } from "../../lib/errors.ts";
import type { DomId } from "../../lib/hypervisor.ts";
import {
  backendKindPath,
  backendPath,
  type DeviceAddress,
  frontendPath,
  isBackendKind,
  libxlPath,
  MAX_DOMID,
  parseBackendPath,
  parseDomId,
} from "../../lib/xenbus/paths.ts";
import { MAX_VDEV } from "../../lib/xenbus/vdev.ts";

const DOM0 = 0 as DomId;
const DEVICE: DeviceAddress = { backendDomain: DOM0, kind: "vbd3", frontendDomain: 5 as DomId, vdev: 51712 };

Deno.test("a device's directories", () => {
  assertEquals(backendKindPath(DOM0, "vbd3"), "/local/domain/0/backend/vbd3");
  assertEquals(backendPath(DEVICE), "/local/domain/0/backend/vbd3/5/51712");
  assertEquals(frontendPath(DEVICE), "/local/domain/5/device/vbd/51712");
  assertEquals(libxlPath(DEVICE), "/libxl/5/device/vbd/51712");
});

const anyDevice: fc.Arbitrary<DeviceAddress> = fc.record({
  backendDomain: fc.integer({ min: 0, max: MAX_DOMID }) as fc.Arbitrary<DomId>,
  kind: fc.constantFrom("vbd", "vbd3", "qdisk", "my-kind_2"),
  frontendDomain: fc.integer({ min: 0, max: MAX_DOMID }) as fc.Arbitrary<DomId>,
  vdev: fc.integer({ min: 0, max: MAX_VDEV }),
});

Deno.test("the path of any backend directory leads back to its device, absolute or relative to the own domain", () => {
  fc.assert(fc.property(anyDevice, (device) => {
    assertEquals(parseBackendPath(backendPath(device), 31000 as DomId), device);
    const relative = `backend/${device.kind}/${device.frontendDomain}/${device.vdev}`;
    assertEquals(parseBackendPath(relative, device.backendDomain), device);
  }));
});

Deno.test("domain ids are decimal numbers below the reserved ones", () => {
  assertEquals(["0", "1", "32751"].map(parseDomId) as (number | undefined)[], [0, 1, 32751]);
  for (const text of ["", "32752", "65535", "-1", "+1", "01", " 1", "1 ", "1.5", "0x1", "a", "4294967297"]) {
    assertEquals(parseDomId(text), undefined, text);
  }
});

Deno.test("a kind is one word", () => {
  assertEquals(["vbd3", "qdisk", "a", "A_b-9"].every(isBackendKind), true);
  assertEquals(["", "a/b", "a b", "..", "ä", "x".repeat(65)].some(isBackendKind), false);
});

Deno.test("what is no backend directory is refused, saying which part is wrong", () => {
  const shape = "it is not the path of a device";
  const refusals: [string, string][] = [
    ["", shape],
    ["/", shape],
    ["backend/vbd3/5", shape],
    ["backend/vbd3/5/51712/", shape],
    ["backend/vbd3/5/51712/state", shape],
    ["/backend/vbd3/5/51712", shape],
    ["local/domain/0/backend/vbd3/5/51712", shape],
    ["/local/domain/0/device/vbd/51712", shape],
    [" backend/vbd3/5/51712", shape],
    ["/local/domain/x/backend/vbd3/5/51712", `backend domain "x" is not a number from 0 to 32751`],
    ["/local/domain//backend/vbd3/5/51712", `backend domain "" is not a number from 0 to 32751`],
    ["/local/domain/0/backend//5/51712", `kind "" is not a word of letters, digits, _ and -`],
    ["backend/v b/5/51712", `kind "v b" is not a word of letters, digits, _ and -`],
    ["backend/vbd3/guest/51712", `domain "guest" is not a number from 0 to 32751`],
    ["backend/vbd3/32752/51712", `domain "32752" is not a number from 0 to 32751`],
    ["backend/vbd3/05/51712", `domain "05" is not a number from 0 to 32751`],
    ["backend/vbd3/5/xvda", `device "xvda" is not a number from 0 to 536870911`],
    ["backend/vbd3/5/536870912", `device "536870912" is not a number from 0 to 536870911`],
    ["backend/vbd3/5/\n", `device "\\n" is not a number from 0 to 536870911`],
  ];
  for (const [path, why] of refusals) {
    const error = assertThrows(() => parseBackendPath(path, DOM0), XenblkError);
    assertEquals(error.message, `Cannot use backend path ${JSON.stringify(path)}: ${why}`);
    assertEquals([error.kind, error.remedy?.startsWith("give it as /local/domain/")], ["usage", true]);
  }
});
