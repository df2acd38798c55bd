/**
 * Parsing arguments by an option table: values, defaults, and every kind of mistake.
 * The verb is the test's own.
 */

import { assertEquals, assertThrows } from "@std/assert";
import { XenblkError } from "../../lib/errors.ts";
import { isOneSlipAway, parseArguments } from "../../lib/cli/args.ts";
import * as options from "../../lib/cli/options.ts";

const SAMPLE = {
  name: "sample",
  operands: [{ name: "IMAGE", help: "an image", required: true }, { name: "VDEV", help: "a device", required: false }],
  options: {
    write: options.flag("Write", "w"),
    depth: { ...options.defaulting(options.integer("Depth", 1, 32), "8"), short: "d" },
    engine: options.optional(options.choice("Engine", ["file", "null"])),
    size: options.defaulting(options.size("Size", 512, 512, 2 ** 30), "1M"),
    sizes: options.defaulting(options.list(options.size("Sizes", 512, 512, 2 ** 20)), "4K,8K"),
    mix: options.optional(options.decimal("Mix", 0, 1)),
    title: options.optional(options.text("TEXT", "Title")),
  },
} as const;

function complaint(...args: string[]): string {
  const error = assertThrows(() => parseArguments(SAMPLE, args), XenblkError);
  assertEquals(error.exitStatus, 2);
  assertEquals(error.remedy, "see xenblk sample --help");
  return error.message;
}

Deno.test("without options the defaults hold, and operands are named", () => {
  const { options, operands, common } = parseArguments(SAMPLE, ["disk.img"]);
  assertEquals(options, {
    write: false,
    depth: 8,
    engine: undefined,
    size: 2 ** 20,
    sizes: [4096, 8192],
    mix: undefined,
    title: undefined,
  });
  assertEquals(operands, { image: "disk.img" });
  assertEquals(common, { help: false, version: false, verbose: false, quiet: false });
});

Deno.test("long and short forms, with = and with a space, before and after operands", () => {
  const { options, operands, common } = parseArguments(
    SAMPLE,
    ["-w", "-d", "16", "007", "--engine=null", "--size", "2K", "xvdb", "--sizes=512,1K", "--mix=0.25", "-v"],
  );
  assertEquals([options.write, options.depth, options.engine, options.size], [true, 16, "null", 2048]);
  assertEquals([options.sizes, options.mix], [[512, 1024], 0.25]);
  assertEquals(operands, { image: "007", vdev: "xvdb" });
  assertEquals(common.verbose, true);
});

Deno.test("after -- everything is an operand", () => {
  assertEquals(parseArguments(SAMPLE, ["--", "--odd.img"]).operands, { image: "--odd.img" });
});

Deno.test("an unknown option is named, with the one that was probably meant", () => {
  assertEquals(complaint("--bogus=1", "a"), "Cannot use --bogus: sample has no such option");
  assertEquals(complaint("-x", "a"), "Cannot use -x: sample has no such option");
  assertEquals(complaint("--dpeth=4", "a"), "Cannot use --dpeth: sample has no such option, did you mean --depth");
  assertEquals(complaint("--no-write", "a"), "Cannot use --no-write: sample has no such option");
  assertEquals(complaint("--__proto__=1", "a"), "Cannot use --__proto__: sample has no such option");
});

Deno.test("a missing value is named, with what is allowed", () => {
  const allowed = "it takes a whole number from 1 to 32";
  for (const args of [["a", "--depth"], ["--depth", "--write", "a"], ["--depth=", "a"], ["a", "-d"]]) {
    assertEquals(complaint(...args), `Cannot use --depth without a value: ${allowed}`);
  }
  assertEquals(complaint("a", "--title="), "Cannot use --title without a value: it takes a text that is not empty");
});

Deno.test("a bad value is shown, with what is allowed", () => {
  for (const bad of ["0", "33", "4.5", "1e1", "0x10", "four", "99999999999999999999"]) {
    assertEquals(complaint(`--depth=${bad}`, "a"), `Cannot use --depth=${bad}: it takes a whole number from 1 to 32`);
  }
  assertEquals(complaint("a", "--depth", "-1"), "Cannot use --depth=-1: it takes a whole number from 1 to 32");
  assertEquals(complaint("a", "--mix", "-.5"), "Cannot use --mix=-.5: it takes a number from 0 to 1");
  assertEquals(complaint("--engine=fil", "a"), "Cannot use --engine=fil: it takes one of file, null");
  assertEquals(complaint("--mix=1.5", "a"), "Cannot use --mix=1.5: it takes a number from 0 to 1");
  const size = "a size such as 64K, 64M or 1G, from 512 B to 1.0 GiB, a multiple of 512 bytes";
  for (const bad of ["513", "2G", "1X", "0"]) {
    assertEquals(complaint(`--size=${bad}`, "a"), `Cannot use --size=${bad}: it takes ${size}`);
  }
  assertEquals(complaint("--sizes=4K,,8K", "a").startsWith("Cannot use --sizes=4K,,8K: it takes a list"), true);
});

Deno.test("a flag with a value and an option given twice are refused", () => {
  assertEquals(complaint("--write=no", "a"), "Cannot use --write=no: --write takes no value");
  assertEquals(complaint("--depth=4", "--depth=5", "a"), "Cannot use --depth twice");
});

Deno.test("missing, empty and superfluous operands are refused", () => {
  assertEquals(complaint(), "Cannot run sample without IMAGE: an image");
  assertEquals(complaint(""), "Cannot run sample without IMAGE: an image");
  assertEquals(complaint("a", ""), "Cannot use an empty VDEV");
  assertEquals(complaint("a", "b", "c"), 'Cannot use "c": sample takes at most IMAGE VDEV');
});

Deno.test("with --help and --version operands may be missing", () => {
  assertEquals(parseArguments(SAMPLE, ["--help"]).common.help, true);
  assertEquals(parseArguments(SAMPLE, ["-V"]).common.version, true);
});

Deno.test("a default that its option does not allow is a defect of the table", () => {
  assertThrows(() => options.defaulting(options.integer("Depth", 1, 32), "64"), RangeError);
});

Deno.test("one slip is a letter dropped, added, changed or swapped", () => {
  for (const slip of ["dept", "depthh", "debth", "detph", "epth"]) {
    assertEquals(isOneSlipAway("depth", slip), true, slip);
  }
  for (const other of ["dpehh", "d", "depthhh", "xyzzy"]) assertEquals(isOneSlipAway("depth", other), false, other);
});
