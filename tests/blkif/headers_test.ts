/**
 * Shows that every size, offset and constant of the wire format is what Xen's public headers say, as compiled by gcc
 * for x86_64 and x86_32. What the headers do not have (ARM on an x86 machine) is compared with what they do have.
 */

import { assertEquals } from "@std/assert";
import * as abi from "../../lib/blkif/abi.ts";
import { PAGE_BYTES, SECTOR_BYTES } from "../../lib/units.ts";
import { evaluate, evaluateStrings, reportMissingPart, type Target } from "./c_facts.ts";

/** A C expression and what it must be. */
type Row = readonly [expression: string, ours: number];

const REQUEST = "struct blkif_request";
const DISCARD = "struct blkif_request_discard";
const INDIRECT = "struct blkif_request_indirect";
const RESPONSE = "struct blkif_response";
const SEGMENT = "struct blkif_request_segment";

function layoutRows(layout: abi.AbiLayout): Row[] {
  return [
    [`sizeof(${REQUEST})`, layout.requestSizeBytes],
    ["sizeof(union blkif_sring_entry)", layout.requestSizeBytes],
    [`sizeof(${DISCARD})`, layout.discardSizeBytes],
    [`sizeof(${INDIRECT})`, layout.indirectSizeBytes],
    [`sizeof(${RESPONSE})`, layout.responseSizeBytes],
    ...[REQUEST, DISCARD, INDIRECT].flatMap((struct): Row[] => [
      [`offsetof(${struct}, operation)`, layout.operationOffset],
      [`offsetof(${struct}, id)`, layout.idOffset],
      [`offsetof(${struct}, sector_number)`, layout.sectorOffset],
      [`sizeof(((${struct} *)0)->id)`, 8],
      [`sizeof(((${struct} *)0)->sector_number)`, 8],
      [`sizeof(((${struct} *)0)->handle)`, 2],
    ]),
    [`offsetof(${REQUEST}, nr_segments)`, layout.segmentCountOffset],
    [`offsetof(${REQUEST}, handle)`, layout.handleOffset],
    [`offsetof(${REQUEST}, seg)`, layout.segmentsOffset],
    [`sizeof(((${REQUEST} *)0)->nr_segments)`, 1],
    [`offsetof(${DISCARD}, handle)`, layout.handleOffset],
    [`offsetof(${DISCARD}, flag)`, layout.discardFlagOffset],
    [`offsetof(${DISCARD}, nr_sectors)`, layout.discardSectorCountOffset],
    [`sizeof(((${DISCARD} *)0)->nr_sectors)`, 8],
    [`offsetof(${INDIRECT}, indirect_op)`, layout.indirectOperationOffset],
    [`offsetof(${INDIRECT}, nr_segments)`, layout.indirectSegmentCountOffset],
    [`sizeof(((${INDIRECT} *)0)->nr_segments)`, 2],
    [`offsetof(${INDIRECT}, handle)`, layout.indirectHandleOffset],
    [`offsetof(${INDIRECT}, indirect_grefs)`, layout.indirectGrefsOffset],
    [`sizeof(((${INDIRECT} *)0)->indirect_grefs)`, 4 * abi.MAX_INDIRECT_PAGES_PER_REQUEST],
    [`offsetof(${RESPONSE}, id)`, layout.responseIdOffset],
    [`offsetof(${RESPONSE}, operation)`, layout.responseOperationOffset],
    [`offsetof(${RESPONSE}, status)`, layout.responseStatusOffset],
    [`sizeof(((${RESPONSE} *)0)->status)`, 2],
  ];
}

const CONSTANT_ROWS: readonly Row[] = [
  ["BLKIF_OP_READ", abi.OP_READ],
  ["BLKIF_OP_WRITE", abi.OP_WRITE],
  ["BLKIF_OP_WRITE_BARRIER", abi.OP_WRITE_BARRIER],
  ["BLKIF_OP_FLUSH_DISKCACHE", abi.OP_FLUSH_DISKCACHE],
  ["BLKIF_OP_RESERVED_1", abi.OP_RESERVED],
  ["BLKIF_OP_DISCARD", abi.OP_DISCARD],
  ["BLKIF_OP_INDIRECT", abi.OP_INDIRECT],
  ["BLKIF_RSP_OKAY", abi.STATUS_OKAY],
  ["BLKIF_RSP_ERROR", abi.STATUS_ERROR],
  ["BLKIF_RSP_EOPNOTSUPP", abi.STATUS_EOPNOTSUPP],
  ["BLKIF_MAX_SEGMENTS_PER_REQUEST", abi.MAX_SEGMENTS_PER_REQUEST],
  ["BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST", abi.MAX_INDIRECT_PAGES_PER_REQUEST],
  ["BLKIF_DISCARD_SECURE", abi.DISCARD_SECURE],
  [`sizeof(${SEGMENT})`, abi.SEGMENT_SIZE_BYTES],
  // The two lower bytes of a segment's second word: so it is decoded.
  [`offsetof(${SEGMENT}, first_sect)`, 4],
  [`offsetof(${SEGMENT}, last_sect)`, 5],
  ["offsetof(blkif_sring_t, ring)", abi.RING_HEADER_BYTES],
  ["offsetof(blkif_sring_t, req_prod)", 4 * abi.REQ_PROD_WORD],
  ["offsetof(blkif_sring_t, req_event)", 4 * abi.REQ_EVENT_WORD],
  ["offsetof(blkif_sring_t, rsp_prod)", 4 * abi.RSP_PROD_WORD],
  ["offsetof(blkif_sring_t, rsp_event)", 4 * abi.RSP_EVENT_WORD],
  ["sizeof(RING_IDX)", 4],
];

function slotRows(layout: abi.AbiLayout): Row[] {
  return [1, 2, 4, 8, 16].flatMap((pages): Row[] => [
    [`__CONST_RING_SIZE(blkif, ${pages * PAGE_BYTES})`, abi.ringSlots(layout, pages)],
    [`__RING_SIZE((blkif_sring_t *)0, ${pages * PAGE_BYTES}L)`, abi.ringSlots(layout, pages)],
  ]);
}

const ignore = await reportMissingPart("the wire format against Xen's headers");

const targets: readonly (readonly [Target, abi.AbiName])[] = [
  ["x86_64 run", "x86_64-abi"],
  ["x86_64", "x86_64-abi"],
  ["x86_32", "x86_32-abi"],
];

for (const [target, name] of targets) {
  Deno.test({
    name: `the layout of ${name} and all constants are those of Xen's headers (gcc, ${target})`,
    ignore,
    fn: async () => {
      const layout = abi.ABIS[name];
      const rows = [...layoutRows(layout), ...CONSTANT_ROWS, ...slotRows(layout)];
      const theirs = await evaluate(rows.map(([expression]) => expression), target);
      const found = rows.map(([expression], i) => `${expression} = ${theirs[i]}`);
      assertEquals(rows.map(([expression, ours]) => `${expression} = ${ours}`), found);
    },
  });
}

Deno.test({
  name: "the ABIs have the names of protocols.h",
  ignore,
  fn: async () => {
    const names = await evaluateStrings(["X86_64", "X86_32", "ARM"].map((arch) => `XEN_IO_PROTO_ABI_${arch}`));
    assertEquals<string[]>(Object.keys(abi.ABIS), names);
  },
});

Deno.test("every ABI is known by its own name, and ARM's layout is x86_64's", () => {
  for (const [name, layout] of Object.entries(abi.ABIS)) assertEquals<string>(layout.name, name);
  assertEquals({ ...abi.ABIS["arm-abi"], name: "x86_64-abi" }, { ...abi.ABIS["x86_64-abi"] });
});

Deno.test("a sector is an eighth of a page and rings of 1 to 16 pages have 32 to 512 slots", () => {
  assertEquals(abi.SECTORS_PER_PAGE * SECTOR_BYTES, PAGE_BYTES);
  for (const layout of Object.values(abi.ABIS)) {
    assertEquals([1, 2, 4, 8, 16].map((pages) => abi.ringSlots(layout, pages)), [32, 64, 128, 256, 512]);
  }
});
