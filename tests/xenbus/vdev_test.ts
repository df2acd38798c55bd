/**
 * Shows the numbers that virtual device names have, and the names that numbers have, by examples and both ways round.
 */

import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { XenblkError } from "../../lib/errors.ts";
import { clashes, formatVdev, MAX_VDEV, parseVdev } from "../../lib/xenbus/vdev.ts";

const EXAMPLES: readonly (readonly [name: string, vdev: number])[] = [
  ["xvda", 51712],
  ["xvda1", 51713],
  ["xvda3", 51715],
  ["xvda15", 51727],
  ["xvdb", 51728],
  ["xvdp", 51952],
  ["xvdp15", 51967],
  ["xvda16", 0x10000010],
  ["xvda255", 0x100000FF],
  ["xvdq", 0x10001000],
  ["xvdz", 0x10001900],
  ["xvdaa", 0x10001A00],
  ["xvdaa1", 0x10001A01],
  ["xvdba", 0x10003400],
  ["xvdba3", 0x10003403],
  ["xvdzz", 0x1002BD00],
  ["xvdaaa", 0x1002BE00],
  ["sda", 2048],
  ["sda1", 2049],
  ["sdp15", 2303],
  ["hda", 768],
  ["hda1", 769],
  ["hda63", 831],
  ["hdb", 832],
  ["hdc", 5632],
  ["hdc2", 5634],
  ["hdd", 5696],
  ["hdd63", 5759],
];

Deno.test("names have the numbers of xen-vbd-interface(7), and the numbers have those names", () => {
  for (const [name, vdev] of EXAMPLES) {
    assertEquals(parseVdev(name), vdev, name);
    assertEquals(formatVdev(vdev), name);
  }
});

Deno.test("numbers are taken as they are, decimal or hexadecimal", () => {
  const numbers: [string, number][] = [["51712", 51712], ["0xca00", 51712], ["0xCA00", 51712], ["0", 0], ["0x0", 0]];
  for (const [text, vdev] of [...numbers, [String(MAX_VDEV), MAX_VDEV], ["0x1fffffff", MAX_VDEV]] as const) {
    assertEquals(parseVdev(text), vdev, text);
  }
});

Deno.test("dNpM is disk N and partition M of an xvd", () => {
  const examples = { "d0": "xvda", "d0p0": "xvda", "d1p2": "xvdb2", "d15p15": "xvdp15", "d536p37": "xvdtq37" };
  for (const [text, name] of Object.entries({ ...examples, "d16": "xvdq", "d1048575p255": "xvdbgqcv255" })) {
    assertEquals(formatVdev(parseVdev(text)), name, text);
  }
});

Deno.test("names of one disk clash whatever their prefix, and a whole disk clashes with its partitions", () => {
  const clash = (one: string, other: string): boolean => clashes(parseVdev(one), parseVdev(other));
  const clashing = ["xvda sda", "xvda hda", "hdc sdc", "xvda1 sda1", "sda xvda2", "xvda xvda", "xvda16 xvda", "1 1"];
  for (
    const [pairs, expected] of [[clashing, true], [["xvda xvdb", "sda1 xvda2", "xvdq sdp", "1 2"], false]] as const
  ) {
    for (const pair of pairs) {
      const [one, other] = pair.split(" ") as [string, string];
      assertEquals([clash(one, other), clash(other, one)], [expected, expected], pair);
    }
  }
});

Deno.test("numbers outside every scheme have their digits for a name", () => {
  for (const vdev of [0, 1, 767, 768 + 128, 5632 + 128, 2304, 51968, 2 ** 28 - 1, 2 ** 29, 2 ** 32]) {
    assertEquals(formatVdev(vdev), String(vdev));
  }
});

Deno.test("every number that has a name has one that leads back to the same disk and partition", () => {
  const schemes = [[768, 895], [5632, 5759], [2048, 2303], [51712, 51967], [2 ** 28 + 4096, MAX_VDEV]] as const;
  for (const [min, max] of schemes) {
    fc.assert(fc.property(fc.integer({ min, max }), (vdev) => {
      const name = formatVdev(vdev);
      assertEquals([parseVdev(name), /^(xvd|sd|hd)[a-z]+[0-9]*$/.test(name)], [vdev, true], name);
    }));
  }
});

Deno.test("what is no device is refused with its name, the reason and a remedy", () => {
  const unknown = "it is no device name and no number";
  const refusals: [string, string][] = [
    ["", unknown],
    ["xvd", unknown],
    ["xvda0", unknown],
    ["xvda01", unknown],
    ["xvdA", unknown],
    ["XVDA", unknown],
    ["xvda 1", unknown],
    ["xvda-1", unknown],
    ["xvda1000", unknown],
    ["vda", unknown],
    ["d", unknown],
    ["d01", unknown],
    ["d0p", unknown],
    ["d0p01", unknown],
    ["d1048576", "the last disk of its kind is xvdbgqcv"],
    ["d0p256", "the last partition of its kind is 255"],
    ["-1", unknown],
    ["051712", unknown],
    ["51712.0", unknown],
    ["0x", unknown],
    ["0xg", unknown],
    ["1e3", unknown],
    ["99999999999", unknown],
    ["536870912", "the largest number is 536870911"],
    ["4294967296", "the largest number is 536870911"],
    ["0xffffffff", "the largest number is 536870911"],
    ["xvda256", "the last partition of its kind is 255"],
    ["xvdzzzzz", "the last disk of its kind is xvdbgqcv"],
    ["sdq", "the last disk of its kind is sdp"],
    ["sda16", "the last partition of its kind is 15"],
    ["hde", "the last disk of its kind is hdd"],
    ["hda64", "the last partition of its kind is 63"],
  ];
  for (const [text, why] of refusals) {
    const error = assertThrows(() => parseVdev(text), XenblkError);
    assertEquals(error.message, `Cannot use virtual device ${JSON.stringify(text)}: ${why}`);
    assertEquals([error.kind, error.remedy?.includes("xvda")], ["usage", true]);
  }
});
