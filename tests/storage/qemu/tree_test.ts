/**
 * QEMU's options as JSON: nested and with dots, what is refused, and that nothing but an expected error is thrown.
 */

import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { XenblkError } from "../../../lib/errors.ts";
import { childrenOf, nodesOf, parseTree, withChildren } from "../../../lib/storage/qemu/tree.ts";

const LABEL = "json:{...}";

Deno.test("dots nest, numbers make lists, and a file without a driver is a local file", () => {
  const tree = parseTree(
    '{"driver":"quorum","vote-threshold":1,"children.0.driver":"raw","children.0.file.filename":"/a",' +
      '"children.1":{"driver":"qcow2","file":{"driver":"nbd","server.type":"unix","server.path":"/s"}},"node-name":"x"}',
    LABEL,
  );
  assertEquals(tree, {
    driver: "quorum",
    "vote-threshold": 1,
    children: [
      { driver: "raw", file: { driver: "file", filename: "/a" } },
      { driver: "qcow2", file: { driver: "nbd", server: { type: "unix", path: "/s" } } },
    ],
  });
  assertEquals(nodesOf(tree).map(({ driver }) => driver), ["quorum", "raw", "file", "qcow2", "nbd"]);
  assertEquals(withChildren(tree, new Map(childrenOf(tree).map(({ tree }, at) => [tree, at])))["children"], [0, 1]);
});

Deno.test("what is no tree of nodes is refused with what to write", () => {
  const lines: Record<string, string> = {
    "{": "it is not JSON; write it as blockdev-add takes it",
    "[]": "it is not an object; write options in braces, as blockdev-add takes them",
    '{"file":{"driver":"file","filename":"/a"}}':
      'it has no driver, so a guest could choose the format; add "driver":"qcow2" or another format',
    '{"driver":"qcow2","file":"node0"}':
      "its option file refers to the node node0; write that node's options in place of its name",
    '{"driver":"qcow2","file":{"path":"/a"}}': 'its option file has no driver; add "driver"',
    '{"driver":"iscsi","password":"hunter2"}': 'it contains a password; name a file that holds it in "password-secret"',
    '{"driver":"raw","file":{"driver":"https","url":"https://h/a","cookie":"hunter2"}}':
      'it contains a cookie; name a file that holds it in "cookie-secret"',
    '{"driver":"raw","file.driver":"https","file.url":"https://me:hunter2@h/a"}':
      'its url contains a password; write "username", and name a file in "password-secret"',
    '{"driver":"raw","driver.x":1}': "it has the option driver twice; leave one of them out",
  };
  for (const [json, line] of Object.entries(lines)) {
    const error = assertThrows(() => parseTree(json, LABEL), XenblkError);
    assertEquals(error.line, `Cannot use image json:{...}: ${line}`);
  }
  const deep = `${'{"file":'.repeat(100)}1${"}".repeat(100)}`;
  for (
    const json of [
      deep,
      deep.replaceAll('{"file":', "[").replaceAll("}", "]"),
      `{"a":${"[".repeat(9e4)}${"]".repeat(9e4)}}`,
    ]
  ) {
    assertThrows(() => parseTree(json, LABEL), XenblkError);
  }
});

Deno.test("whatever the JSON, nothing but an expected error is thrown, and nothing inherits", () => {
  fc.assert(
    fc.property(fc.oneof(fc.json(), fc.string()), (json) => {
      try {
        parseTree(json, LABEL);
      } catch (error) {
        if (!(error instanceof XenblkError)) throw error;
      }
    }),
    { numRuns: 2000 },
  );
  const tree = parseTree('{"driver":"raw","__proto__":{"polluted":1}}', LABEL);
  assertEquals([tree["polluted"], ({} as { polluted?: number }).polluted], [undefined, undefined]);
});
