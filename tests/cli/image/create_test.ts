/**
 * `image create`: what it makes with real qemu-img, what it refuses, and that a failure leaves nothing.
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { xenblk } from "../command.ts";
import { namesIn, qemu, smallFileSystem, testImages, useElsewhere } from "./images.ts";

async function infoOf(path: string): Promise<Record<string, unknown>> {
  return JSON.parse(await qemu("qemu-img", "info", "--output=json", path));
}

testImages(
  "an image is qcow2 with subclusters unless another format is named, and its name is what attach takes",
  async (directory) => {
    const path = `${directory}/a.img`;
    assertEquals(await xenblk(["image", "create", path, "1G"]), {
      status: 0,
      stdout: `qcow2:${path}\n`,
      stderr: `xenblk: created qcow2:${path} (1.0 GiB)\n`,
    });
    const info = await infoOf(path);
    assertEquals([info["format"], info["virtual-size"], info["cluster-size"]], ["qcow2", 2 ** 30, 128 * 1024]);
    assertMatch(JSON.stringify(info["format-specific"]), /"extended-l2":true/);
    assertEquals(namesIn(directory), ["a.img"]);
  },
);

testImages(
  "the format is named by the name or by --format, and options of it replace the defaults",
  async (directory) => {
    const create = async (...args: string[]): Promise<string> => {
      const { status, stdout, stderr } = await xenblk(["image", "create", ...args]);
      assertEquals(status, 0, stderr);
      return stdout;
    };
    assertEquals(await create(`raw:${directory}/a`, "1M"), `raw:${directory}/a\n`);
    const { size, blocks } = Deno.statSync(`${directory}/a`);
    assertEquals(size, 2 ** 20);
    assert(blocks! * 512 <= 4096, "a raw image is sparse");
    assertEquals(await create(`${directory}/b`, "1M", "--format=vdi"), `vdi:${directory}/b\n`);
    assertEquals((await infoOf(`${directory}/b`))["format"], "vdi");
    await create(`${directory}/c`, "1M", "--option=compat=0.10,cluster_size=4k", "--preallocate=metadata");
    assertEquals((await infoOf(`${directory}/c`))["cluster-size"], 4096);
    await create(`vmdk:${directory}/d.vmdk`, "1M", "--option=subformat=monolithicFlat");
    assertEquals(namesIn(directory), ["a", "b", "c", "d-flat.vmdk", "d.vmdk"]);
    assertEquals((await infoOf(`${directory}/d.vmdk`))["virtual-size"], 2 ** 20);
  },
);

testImages(
  "a file that exists is not overwritten without --force, and not while another process uses it",
  async (directory) => {
    const path = `${directory}/a`;
    await qemu("qemu-img", "create", "-q", "-f", "raw", path, "1M");
    const refused = await xenblk(["image", "create", path, "8M"]);
    assertEquals([refused.status, refused.stderr], [
      1,
      `xenblk: Cannot create image ${path}: it exists; name another file, or overwrite it with --force\n`,
    ]);
    {
      await using _user = await useElsewhere("raw", path);
      const { status, stderr } = await xenblk(["image", "create", path, "8M", "--force"]);
      assertMatch(stderr, /^xenblk: Cannot write to image \S+: process \d+ \(qemu-io\) uses it; end that use first/);
      assertEquals(status, 1);
    }
    assertEquals(Deno.statSync(path).size, 2 ** 20);
    Deno.chmodSync(path, 0o640);
    assertEquals((await xenblk(["image", "create", path, "8M", "--force"])).status, 0);
    assertEquals((await infoOf(path))["virtual-size"], 2 ** 23);
    assertEquals(Deno.statSync(path).mode! & 0o777, 0o640);
    assertEquals(namesIn(directory), ["a"]);
  },
);

testImages("an overlay records its base by absolute path and format, and has its size", async (directory) => {
  await qemu("qemu-img", "create", "-q", "-f", "qcow2", `${directory}/base`, "3M");
  const relative = `${directory}/x/../base`;
  Deno.mkdirSync(`${directory}/x`);
  const { status, stdout } = await xenblk(["image", "create", `${directory}/x/o`, "--backing", `qcow2:${relative}`]);
  assertEquals([status, stdout], [0, `qcow2:${directory}/x/o\n`]);
  const info = await infoOf(`${directory}/x/o`);
  assertEquals(
    [info["virtual-size"], info["backing-filename"], info["backing-filename-format"]],
    [3 * 2 ** 20, `${directory}/base`, "qcow2"],
  );
});

testImages("a base with a format that is not named is refused, whatever its content looks like", async (directory) => {
  await qemu("qemu-img", "create", "-q", "-f", "qcow2", `${directory}/base`, "3M");
  const { status, stderr } = await xenblk(["image", "create", `${directory}/o`, "--backing", `${directory}/base`]);
  assertEquals([status, stderr], [
    2,
    `xenblk: Cannot use backing image ${directory}/base: its format is not named; ` +
    `name it qcow2:${directory}/base, if that is its format\n`,
  ]);
  const named = ["image", "create", `${directory}/o`, "--backing", `${directory}/base`, "--backing-format=qcow2"];
  assertEquals((await xenblk(named)).status, 0);
});

testImages("--key-file encrypts luks and qcow2 images", async (directory) => {
  const key = `${directory}/key`;
  Deno.writeTextFileSync(key, "secret");
  // By default QEMU takes the seconds that make guessing the passphrase slow.
  for (const [format, quick] of [["luks", "iter-time=10"], ["qcow2", "encrypt.iter-time=10"]]) {
    const path = `${directory}/${format}`;
    const args = ["image", "create", `${format}:${path}`, "1M", "--key-file", key, "--option", quick!];
    const { status, stdout, stderr } = await xenblk(args);
    const name = `format=${format},passphrase-file=${key},target=${path}`;
    assertEquals([status, stdout], [0, `${name}\n`], stderr);
    const info = await xenblk(["image", "info", name, "--json"]);
    assertEquals(JSON.parse(info.stdout)[0].encryption, "luks", info.stderr);
    const copied = await xenblk(["image", "convert", name, `raw:${path}.raw`]);
    assertEquals(copied.status, 0, copied.stderr);
    assertEquals(Deno.statSync(`${path}.raw`).size, 2 ** 20);
  }
  const { status, stderr } = await xenblk(["image", "create", `vdi:${directory}/v`, "1M", "--key-file", key]);
  assertEquals([status, stderr], [
    2,
    "xenblk: Cannot use --key-file: a vdi image cannot be encrypted; use the format luks or qcow2\n",
  ]);
});

testImages("a full file system leaves no image, and the reason", async (directory) => {
  await using _mounted = await smallFileSystem(directory, "1M");
  const { status, stderr } = await xenblk(["image", "create", `raw:${directory}/a`, "8M", "--preallocate=full"]);
  assertEquals(status, 1);
  assertMatch(stderr, /^xenblk: Cannot create image raw:\S+: .*No space left on device; free space on its file system/);
  assertEquals(namesIn(directory), []);
}, true);

testImages("an image that another process is making is refused, with what is in the way", async (directory) => {
  Deno.mkdirSync(`${directory}/a.part`);
  const { status, stderr } = await xenblk(["image", "create", `${directory}/a`, "1M"]);
  assertEquals([status, stderr], [
    1,
    `xenblk: Cannot create image ${directory}/a: ${directory}/a.part exists; another process makes this image, or was ` +
    "killed while it did: if so, remove that directory\n",
  ]);
  const missing = await xenblk(["image", "create", `${directory}/none/a`, "1M"]);
  assertEquals([missing.status, missing.stderr], [
    1,
    `xenblk: Cannot create image ${directory}/none/a: there is no such directory\n`,
  ]);
});

Deno.test("without qemu-img the package is named", async () => {
  const directory = Deno.makeTempDirSync();
  using _directory = { [Symbol.dispose]: () => Deno.removeSync(directory) };
  const env = { XENBLK_QEMU_IMG: "/nonexistent/qemu-img" };
  const { status, stdout, stderr } = await xenblk(["image", "create", `${directory}/never-made`, "1M"], { env });
  assertEquals([status, stdout, stderr], [
    1,
    "",
    "xenblk: Cannot run qemu-img create: there is no program /nonexistent/qemu-img; install it (Debian: apt-get install " +
    "qemu-utils), or name it in XENBLK_QEMU_IMG\n",
  ]);
});

testImages("the permissions of the help text suffice, and without FFI nothing is overwritten", async (directory) => {
  const permissions = [
    "--allow-run=qemu-img",
    "--allow-env=XENBLK_QEMU_IMG,NO_COLOR",
    "--allow-read",
    `--allow-write=${directory}`,
  ];
  const args = ["image", "create", `${directory}/a`, "1M"];
  const { status, stderr } = await xenblk(args, { permissions });
  assertEquals([status, stderr], [0, `xenblk: created qcow2:${directory}/a (1.0 MiB)\n`]);
  const forced = await xenblk([...args, "--force"], { permissions });
  assertEquals([forced.status, forced.stderr], [
    1,
    `xenblk: Cannot overwrite image ${directory}/a: Deno was started without the permission to see its users; run deno ` +
    "with --allow-ffi too, or remove the file\n",
  ]);
});

Deno.test("wrong arguments of the image verbs are usage errors that say what is allowed", async (context) => {
  const help = (verb: string): string => `; see xenblk image ${verb} --help`;
  const cases: readonly (readonly [readonly string[], string])[] = [
    [["create"], `Cannot run image create without IMAGE: a path that does not exist, or FORMAT:PATH${help("create")}`],
    [
      ["create", "a"],
      `Cannot run image create without SIZE: such as 64M or 10G, unless --backing has one${help("create")}`,
    ],
    [
      ["create", "a", "much"],
      "Cannot read size much: it is not a number of bytes below 2^53; write it like 4096, 64M or 1G",
    ],
    [
      ["info", "format=qcow2,snapshot=s,target=a"],
      "Cannot use image format=qcow2,snapshot=s,target=a: the verbs of `image` take no snapshot by snapshot=; leave it " +
      "out; `image convert --snapshot NAME` copies a snapshot",
    ],
    [["create", "a", "100"], "Cannot use size 100: it is not a multiple of 512 bytes above 0"],
    [["create", "a", "0"], "Cannot use size 0: it is not a multiple of 512 bytes above 0"],
    [
      ["create", "raw:a", "1536"],
      "Cannot create a raw image of 1536 bytes: that is no multiple of 4096, which O_DIRECT needs; use 4096 (4.0 KiB)",
    ],
    [["create", "vdi:a", "1M", "--format=raw"], `Cannot use --format=raw: the image's name says vdi${help("create")}`],
    [["create", "nbd://h/a", "1M"], `Cannot create image nbd://h/a: it names no local file${help("create")}`],
    [["create", "a", "1M", "--backing-format=raw"], `Cannot use --backing-format without --backing${help("create")}`],
    [
      ["create", "luks:a", "1M"],
      `Cannot create a luks image without --key-file=FILE, the file with its passphrase${help("create")}`,
    ],
    [
      ["create", "a", "1M", "--option=big"],
      `Cannot use --option=big: it takes a list separated by commas, each NAME=VALUE${help("create")}`,
    ],
    [
      ["create", "a", "1M", "--option=backing_file=b"],
      `Cannot use --option=backing_file=b: name it in --backing${help("create")}`,
    ],
    [
      ["info", "cow:a"],
      "Cannot use image cow:a: unknown format cow; use a path, raw:PATH, qcow2:PATH or another format of QEMU, a URI",
    ],
    [["info", "null:1M"], "Cannot use image null:1M: it is kept in no file; use PATH, FORMAT:PATH or a URI"],
    [["info", "qcow2:"], "Cannot use image qcow2:: nothing follows the format"],
    [
      ["convert", "a"],
      `Cannot run image convert without TARGET: a path that does not exist, or FORMAT:PATH${help("convert")}`,
    ],
    [["check", "a", "--repair=some"], `Cannot use --repair=some: it takes one of leaks, all${help("check")}`],
    [["mak"], 'Cannot run "image mak": there is no such verb, did you mean image map; see xenblk --help'],
  ];
  for (const [args, message] of cases) {
    await context.step(args.join(" "), async () => {
      const { status, stdout, stderr } = await xenblk(["image", ...args]);
      assertStringIncludes(stderr, `xenblk: ${message}`);
      assertEquals([status, stdout], [2, ""]);
    });
  }
});

Deno.test("`image` alone shows its verbs, on stderr with status 2, or as help on stdout", async () => {
  const bare = await xenblk(["image"]);
  assertEquals([bare.status, bare.stdout], [2, ""]);
  for (const args of [["image", "--help"], ["help", "image"]]) {
    assertEquals(await xenblk(args), { status: 0, stdout: bare.stderr, stderr: "" });
  }
  assertMatch(bare.stderr, /^ {2}image create +Create an image$/m);
  const help = await xenblk(["help", "image", "create"]);
  assertMatch(help.stdout, /^Usage: xenblk image create \[OPTIONS\] IMAGE \[SIZE\]$/m);
});
