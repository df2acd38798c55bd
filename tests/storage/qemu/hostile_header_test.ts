/**
 * A header is whatever a guest could write into it: without a pattern, no header leads to a file out of the image's own
 * directory, to a store, to a secret, or to an error that is not expected.
 */

import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { XenblkError } from "../../../lib/errors.ts";
import { canonicalFormat } from "../../../lib/storage/image/formats.ts";
import { imageTree } from "../../../lib/storage/qemu/chain.ts";
import { graphOf } from "../../../lib/storage/qemu/graph.ts";
import type { ImageInfo } from "../../../lib/storage/qemu/image_info.ts";
import { localPath, nodesOf } from "../../../lib/storage/qemu/tree.ts";
import { Folder } from "../rig.ts";

/** Directories of an image with a file beside it and one below, and a file elsewhere that links lead to. */
class Scene extends Folder {
  readonly own = `${this.path}/own`;

  constructor() {
    super();
    Deno.mkdirSync(`${this.own}/below`, { recursive: true });
    for (const name of ["secret", "own/top", "own/base", "own/below/base"]) this.file(name, 512);
    Deno.symlinkSync("../secret", `${this.own}/link`);
    Deno.symlinkSync("/", `${this.own}/root`);
  }
}

/** Drivers that a header could name. */
const DRIVER = fc.constantFrom(
  "file",
  "raw",
  "qcow2",
  "luks",
  "host_device",
  "nbd",
  "null-co",
  "vvfat",
  "blkdebug",
  "host_cdrom",
);

/** Texts that a header could name: places, put together and in front of each other. */
function texts(scene: Scene): fc.Arbitrary<string> {
  const path = fc.constantFrom(
    "base",
    "below/base",
    "link",
    "root/etc/hostname",
    "../secret",
    "below/../../secret",
    "/etc/hostname",
    "/dev/null",
    `${scene.own}/base`,
    `${scene.own}/below/../link`,
    "top",
    "",
    ".",
    "\0",
  );
  const prefix = fc.constantFrom(
    "",
    "file:",
    "nbd:",
    "fat:",
    "host_device:",
    "raw:",
    "./",
    "//",
    "nbd://",
    "ssh://h",
    "rbd:",
  );
  const { node } = fc.letrec((tie) => ({
    node: fc.record({
      driver: DRIVER,
      filename: path,
      file: fc.option(tie("node"), { depthIdentifier: "node", maxDepth: 3, nil: undefined }),
      backing: fc.option(tie("node"), { depthIdentifier: "node", maxDepth: 2, nil: null }),
      "key-secret": path,
      "tls-creds": path,
      "file.filename": path,
    }, { requiredKeys: [] }),
  }));
  return fc.oneof(
    fc.tuple(prefix, path).map(([prefix, path]) => prefix + path),
    node.map((node) => `json:${JSON.stringify(node)}`),
    fc.tuple(DRIVER, path, fc.constantFrom("key-secret", "tls-creds", "offset")).map(([driver, path, option]) =>
      `json:${JSON.stringify({ driver, file: { driver: "file", filename: `${scene.own}/base` }, [option]: path })}`
    ),
    fc.string({ unit: "binary" }),
  );
}

Deno.test("whatever a header names, only files of the own directory are opened, by formats, without secrets", async () => {
  using scene = new Scene();
  const text = texts(scene);
  const format = fc.constantFrom("raw", "qcow2", "vmdk", "luks", "file", "host_device", "nbd", "x", undefined);
  const info = fc.record({
    backingFilename: text,
    backingFormat: format,
    dataFile: text,
    encrypted: fc.constant(false),
  }, {
    requiredKeys: ["encrypted"],
  });
  let opened = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(info, { minLength: 1, maxLength: 4 }), async (infos) => {
      const headers = infos.map((info) => {
        const kept = Object.entries(info).filter(([, value]) => value !== undefined);
        return { corrupt: false, ...Object.fromEntries(kept) } as ImageInfo;
      });
      const plain: ImageInfo = { encrypted: false, corrupt: false };
      const inspector = { inspect: () => Promise.resolve(headers.shift() ?? plain) };
      try {
        const tree = await imageTree({ format: "qcow2", target: `${scene.own}/top` }, { inspector, allowImages: [] });
        opened++;
        for (const node of nodesOf(tree)) {
          const path = localPath(node);
          assert(
            path === undefined || [`${scene.own}/top`, `${scene.own}/base`, `${scene.own}/below/base`].includes(path),
            path,
          );
          assert(path !== undefined || canonicalFormat(node.driver) === node.driver, node.driver);
        }
        const graph = graphOf(tree, { prefix: "d", label: "top", readOnly: true });
        assertEquals([graph.secrets, graph.credentials], [[], []]);
      } catch (error) {
        if (!(error instanceof XenblkError)) throw error;
      }
    }),
    { numRuns: 1000 },
  );
  assert(opened > 10, `${opened} chains were opened`);
});
