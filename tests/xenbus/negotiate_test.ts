/**
 * Shows what the backend offers and publishes, what it reads from a frontend's nodes, and that every value it cannot use
 * is an error naming the node, the value and what is allowed.
 */

import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import fc from "fast-check";
import { XenblkError } from "../../lib/errors.ts";
import { BASIC_OFFER, diskNodes, featureNodes, type Offer, readOffer } from "../../lib/xenbus/features.ts";
import { ABI_NAMES } from "../../lib/blkif/abi.ts";
import { type FrontendParameters, readFrontend } from "../../lib/xenbus/negotiate.ts";

const LARGE: Offer = { ...BASIC_OFFER, maxRingPageOrder: 4, maxQueues: 8 };
const PATH = "/local/domain/5/device/vbd/51712";

type Nodes = Readonly<Record<string, string>>;

function read(nodes: Nodes, offer = BASIC_OFFER, defaultProtocol = ABI_NAMES[1]): FrontendParameters {
  const lookup = (name: string): string | undefined => Object.hasOwn(nodes, name) ? nodes[name] : undefined;
  return readFrontend(lookup, { frontendPath: PATH, defaultProtocol, offer });
}

/** The parameters without their brands, so that they compare with plain numbers. */
function plain(parameters: FrontendParameters): unknown {
  return JSON.parse(JSON.stringify(parameters));
}

const LINUX: Nodes = {
  "protocol": "x86_64-abi",
  "ring-ref": "8",
  "event-channel": "17",
  "feature-persistent": "1",
  "state": "3",
};

function refused(nodes: Nodes, offer = BASIC_OFFER): string {
  return assertThrows(() => read(nodes, offer), XenblkError).message;
}

Deno.test("what Linux publishes with one queue of one page", () => {
  assertEquals(plain(read(LINUX)), {
    abi: "x86_64-abi",
    persistent: true,
    queues: [{ ringRefs: [8], eventChannel: 17 }],
  });
});

Deno.test("a frontend that names no protocol has the one that the caller takes for the default", () => {
  const nodes = { "ring-ref": "8", "event-channel": "17" };
  for (const protocol of ABI_NAMES) {
    const options = { frontendPath: PATH, defaultProtocol: protocol, offer: BASIC_OFFER };
    assertEquals(readFrontend((name) => nodes[name as keyof typeof nodes], options).abi, protocol);
  }
  assertEquals(plain(read(nodes)), {
    abi: "x86_32-abi",
    persistent: false,
    queues: [{ ringRefs: [8], eventChannel: 17 }],
  });
  for (const protocol of ABI_NAMES) assertEquals(read({ ...nodes, protocol }).abi, protocol);
});

Deno.test("an unknown protocol is an error that lists the known ones", () => {
  for (const protocol of ["", "x86_64", "X86_64-ABI", "ppc-abi", "toString", "x86_64-abi\n"]) {
    assertEquals(
      refused({ ...LINUX, protocol }),
      `Cannot connect to the frontend: ${PATH}/protocol is ${JSON.stringify(protocol)}, ` +
        "not one of x86_64-abi, x86_32-abi, arm-abi",
    );
  }
});

const NOT_U32 = ["", " ", "-1", "+1", "1 ", " 1", "01", "0x8", "8a", "1.0", "1e3", "4294967296", "9".repeat(30), "8\0"];

Deno.test("ring-ref and event-channel are decimal u32 numbers or an error", () => {
  for (const text of NOT_U32) {
    const shown = JSON.stringify(text.length > 40 ? `${text.slice(0, 40)}...` : text);
    assertEquals(
      refused({ ...LINUX, "ring-ref": text }),
      `Cannot connect to the frontend: ${PATH}/ring-ref is ${shown}, not a decimal number from 0 to 4294967295`,
    );
    assertEquals(
      refused({ ...LINUX, "event-channel": text }),
      `Cannot connect to the frontend: ${PATH}/event-channel is ${shown}, not a decimal number from 1 to 4294967295`,
    );
  }
  assertStringIncludes(
    refused({ ...LINUX, "event-channel": "0" }),
    `/event-channel is "0", not a decimal number from 1`,
  );
  const ends = { ...LINUX, "ring-ref": "4294967295", "event-channel": "4294967295" };
  assertEquals(plain(read(ends)), {
    abi: "x86_64-abi",
    persistent: true,
    queues: [{ ringRefs: [4294967295], eventChannel: 4294967295 }],
  });
});

Deno.test("a missing ring-ref or event-channel is an error", () => {
  assertEquals(refused({ "event-channel": "1" }), `Cannot connect to the frontend: ${PATH}/ring-ref is missing`);
  assertEquals(refused({ "ring-ref": "1" }), `Cannot connect to the frontend: ${PATH}/event-channel is missing`);
});

Deno.test("a huge or unprintable value does not make a huge or unprintable message", () => {
  const message = refused({ ...LINUX, "ring-ref": "\x1b[2J\n".repeat(1000) });
  assertEquals([message.length < 400, /^[\x20-\x7e]*$/.test(message)], [true, true]);
});

Deno.test("a driver that gives no size of its ring wrote ring-ref, whatever an earlier one left in ring-ref0", () => {
  const left = { "ring-ref0": "90", "ring-ref1": "91", "queue-0/ring-ref0": "92" };
  assertEquals(read({ ...LINUX, ...left }, LARGE).queues, read(LINUX, LARGE).queues);
});

Deno.test("the nodes of queues do not count for a driver that asks for no queues", () => {
  const left = { "queue-0/ring-ref": "90", "queue-0/event-channel": "91", "queue-1/ring-ref": "92" };
  assertEquals(read({ ...LINUX, ...left }, LARGE).queues, read(LINUX, LARGE).queues);
});

Deno.test("a ring of one page may be named ring-ref0, whether or not its order is given", () => {
  const { "ring-ref": _, ...rest } = LINUX;
  const refs = (nodes: Nodes): number[] => [...read({ ...rest, ...nodes }).queues[0]!.ringRefs];
  assertEquals(refs({ "ring-page-order": "0", "ring-ref0": "9" }), [9]);
  assertEquals(refs({ "ring-page-order": "0", "ring-ref": "8" }), [8]);
  assertEquals(refs({ "ring-page-order": "0", "ring-ref": "8", "ring-ref0": "9" }), [9]);
  assertEquals(refs({ "num-ring-pages": "1", "ring-ref": "8" }), [8]);
  assertEquals(refs({ "num-ring-pages": "1", "ring-ref": "8", "ring-ref0": "9" }), [9]);
  assertEquals(refs({ "ring-ref0": "9" }), [9]);
});

Deno.test("a larger ring is read as offered, by order or by number of pages, and is an error beyond that", () => {
  const refs = Object.fromEntries(Array.from({ length: 32 }, (_, i) => [`ring-ref${i}`, String(100 + i)]));
  for (let order = 0; order <= 4; order++) {
    const expected = Array.from({ length: 2 ** order }, (_, i) => 100 + i);
    for (const size of [{ "ring-page-order": String(order) }, { "num-ring-pages": String(2 ** order) }]) {
      assertEquals<number[]>([...read({ ...LINUX, ...refs, ...size }, LARGE).queues[0]!.ringRefs], expected);
    }
  }
  assertStringIncludes(refused({ ...LINUX, "ring-page-order": "1" }), `ring-page-order is "1", not the number 0`);
  assertStringIncludes(refused({ ...LINUX, "num-ring-pages": "2" }), `num-ring-pages is "2", not the number 1`);
  const tooLarge = { ...LINUX, ...refs, "ring-page-order": "5" };
  assertStringIncludes(refused(tooLarge, LARGE), `ring-page-order is "5", not a decimal number from 0 to 4`);
  const odd = { ...LINUX, ...refs, "num-ring-pages": "3" };
  assertStringIncludes(refused(odd, LARGE), "num-ring-pages is 3, not a power of two");
  assertStringIncludes(refused({ ...LINUX, "num-ring-pages": "0" }, LARGE), `num-ring-pages is "0"`);
  for (const text of NOT_U32) {
    assertStringIncludes(refused({ ...LINUX, "ring-page-order": text }), "/ring-page-order is ");
    assertStringIncludes(refused({ ...LINUX, "num-ring-pages": text }), "/num-ring-pages is ");
  }
  const { "ring-ref2": _, ...gap } = refs;
  assertStringIncludes(refused({ ...gap, ...LINUX, "ring-page-order": "2" }, LARGE), "/ring-ref2 is missing");
});

Deno.test("several queues are read from their own directories as offered, and are an error beyond that", () => {
  const nodes: Nodes = {
    ...LINUX,
    "multi-queue-num-queues": "2",
    "queue-0/ring-ref": "20",
    "queue-0/event-channel": "21",
    "queue-1/ring-ref": "30",
    "queue-1/event-channel": "31",
  };
  assertEquals(plain(read(nodes, LARGE)), {
    abi: "x86_64-abi",
    persistent: true,
    queues: [{ ringRefs: [20], eventChannel: 21 }, { ringRefs: [30], eventChannel: 31 }],
  });
  const one = plain(read({ ...nodes, "multi-queue-num-queues": "1" }));
  assertEquals(one, plain(read(LINUX)), "one queue is in the frontend's own directory");
  assertStringIncludes(refused(nodes), `multi-queue-num-queues is "2", not the number 1`);
  for (const wrong of ["0", "9", ...NOT_U32]) {
    const message = refused({ ...nodes, "multi-queue-num-queues": wrong }, LARGE);
    assertStringIncludes(message, `, not a decimal number from 1 to 8`);
  }
  const missing = refused({ ...nodes, "multi-queue-num-queues": "3" }, LARGE);
  assertStringIncludes(missing, `${PATH}/queue-2/ring-ref is missing`);
});

Deno.test("four ring pages in each of two queues", () => {
  const entries = [0, 1].flatMap((queue) => [
    ...[0, 1, 2, 3].map((page) => [`queue-${queue}/ring-ref${page}`, String(queue * 10 + page)] as const),
    [`queue-${queue}/event-channel`, String(50 + queue)] as const,
  ]);
  const nodes = { "ring-page-order": "2", "multi-queue-num-queues": "2", ...Object.fromEntries(entries) };
  assertEquals(plain(read(nodes, LARGE)), {
    abi: "x86_32-abi",
    persistent: false,
    queues: [{ ringRefs: [0, 1, 2, 3], eventChannel: 50 }, { ringRefs: [10, 11, 12, 13], eventChannel: 51 }],
  });
});

Deno.test("whatever a frontend writes is read, or refused with an XenblkError", () => {
  const value = fc.oneof(fc.nat().map(String), fc.string(), fc.constantFrom("0", "1", "2", "4", "x86_64-abi", "-1"));
  const names = [
    "protocol",
    "ring-ref",
    "ring-ref0",
    "ring-ref1",
    "event-channel",
    "ring-page-order",
    "num-ring-pages",
  ];
  const name = fc.constantFrom(...names, "multi-queue-num-queues", "feature-persistent", "queue-0/ring-ref");
  fc.assert(
    fc.property(fc.dictionary(name, value), fc.constantFrom(BASIC_OFFER, LARGE), (nodes, offer) => {
      try {
        const { queues } = read(nodes, offer);
        assertEquals(queues.length <= offer.maxQueues, true);
        for (const { ringRefs } of queues) assertEquals(ringRefs.length <= 2 ** offer.maxRingPageOrder, true);
      } catch (error) {
        if (!(error instanceof XenblkError)) throw error;
        assertStringIncludes(error.message, `Cannot connect to the frontend: ${PATH}/`);
      }
    }),
    { numRuns: 2000 },
  );
});

Deno.test("the features published say what is there and promise nothing else", () => {
  assertEquals(featureNodes(BASIC_OFFER), [
    ["feature-barrier", "1"],
    ["feature-flush-cache", "1"],
    ["feature-discard", "0"],
    ["feature-persistent", "0"],
    ["max-ring-page-order", "0"],
    ["max-ring-pages", "1"],
  ]);
  assertEquals(
    featureNodes({
      barrier: false,
      flushCache: false,
      persistent: true,
      maxRingPageOrder: 4,
      maxQueues: 3,
      maxIndirectSegments: 256,
      discard: { granularityBytes: 4096, alignmentBytes: 512, secure: false },
    }),
    [
      ["feature-barrier", "0"],
      ["feature-flush-cache", "0"],
      ["feature-discard", "1"],
      ["feature-persistent", "1"],
      ["max-ring-page-order", "4"],
      ["max-ring-pages", "16"],
      ["multi-queue-max-queues", "3"],
      ["feature-max-indirect-segments", "256"],
      ["discard-granularity", "4096"],
      ["discard-alignment", "512"],
      ["discard-secure", "0"],
    ],
  );
});

const anyOffer: fc.Arbitrary<Offer> = fc.record({
  barrier: fc.boolean(),
  flushCache: fc.boolean(),
  persistent: fc.boolean(),
  maxRingPageOrder: fc.nat({ max: 4 }),
  maxQueues: fc.integer({ min: 1, max: 64 }),
  maxIndirectSegments: fc.nat({ max: 256 }),
  discard: fc.record({ granularityBytes: fc.nat(), alignmentBytes: fc.nat(), secure: fc.boolean() }),
}, { requiredKeys: ["barrier", "flushCache", "persistent", "maxRingPageOrder", "maxQueues", "maxIndirectSegments"] });

Deno.test("what was published is read back as what was offered", () => {
  fc.assert(fc.property(anyOffer, (offer) => {
    const nodes = new Map(featureNodes(offer));
    assertEquals(readOffer((name) => nodes.get(name)), { ...offer });
  }));
});

Deno.test("nodes of a backend that are missing or make no sense offer nothing, and none offers more than there is", () => {
  const nothing = { ...BASIC_OFFER, barrier: false, flushCache: false };
  assertEquals(readOffer(() => undefined), nothing);
  for (const text of ["", "-1", "x", "01", "1e3"]) assertEquals(readOffer(() => text), nothing);
  const most = readOffer(() => "99999");
  assertEquals([most.maxRingPageOrder, most.maxQueues, most.maxIndirectSegments], [4, 64, 256]);
});

Deno.test("a disk is published in 512-byte sectors, with its sector sizes and its kind", () => {
  const disk = {
    sectors: 2 ** 44,
    logicalSectorBytes: 4096,
    physicalSectorBytes: 4096,
    readOnly: false,
    cdrom: false,
    removable: false,
  };
  assertEquals(diskNodes(disk), [
    ["sectors", "17592186044416"],
    ["info", "0"],
    ["sector-size", "4096"],
    ["physical-sector-size", "4096"],
  ]);
  const info = (kind: Partial<typeof disk>): string | undefined => diskNodes({ ...disk, ...kind })[1]?.[1];
  assertEquals([info({ cdrom: true }), info({ removable: true }), info({ readOnly: true })], ["1", "2", "4"]);
  assertEquals(info({ cdrom: true, removable: true, readOnly: true }), "7");
});

Deno.test("what a guest wrote appears in messages in printable ASCII alone", () => {
  const error = assertThrows(() => read({ ...LINUX, "ring-ref": "\x1b[2J\x9b\u2028\u202e٣\ud83d" }), XenblkError);
  assertStringIncludes(error.message, String.raw`"\u001b[2J\u009b\u2028\u202e\u0663\ud83d"`);
  assertEquals(/^[ -~]*$/.test(error.message), true);
});
