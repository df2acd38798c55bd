/**
 * Chains made by qemu-img: what they consist of, odd names, and each reason why one is refused, with its words.
 */

import { assertEquals, assertRejects } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import type { ImageName } from "../../../lib/storage/image/spec.ts";
import { type ChainContext, imageGraph, imageTree } from "../../../lib/storage/qemu/chain.ts";
import { describeTree } from "../../../lib/storage/qemu/graph.ts";
import { QemuImg } from "../../../lib/storage/qemu/image_info.ts";
import type { BlockTree } from "../../../lib/storage/qemu/tree.ts";
import { Folder } from "../rig.ts";
import { assertOpens, forgetBackingFormat, ImageFolder, run } from "./rig.ts";

const inspector = new QemuImg();

async function tree(name: ImageName, context: Partial<ChainContext> = {}): Promise<BlockTree> {
  return await imageTree(name, { inspector, ...context });
}

async function qcow2(target: string, context: Partial<ChainContext> = {}): Promise<BlockTree> {
  return await tree({ format: "qcow2", target }, context);
}

/** The line of the refusal, with the folder's name out of it. */
async function refusal(folder: Folder, name: ImageName, context: Partial<ChainContext> = {}): Promise<string> {
  const error = await assertRejects(() => tree(name, context), XenblkError);
  return error.line.replaceAll(folder.path, "/F");
}

/** Opens the image in a daemon, which must open nothing that the graph does not name; returns the description. */
async function opens(name: ImageName, context: Partial<ChainContext> = {}): Promise<string> {
  const options = { inspector, prefix: "disk", readOnly: false, aio: "threads", ...context } as const;
  const { graph, description } = await imageGraph(name, options);
  await assertOpens(graph);
  return description;
}

/** What every qcow2 node gets. */
const PIECES = { "l2-cache-entry-size": 4096 };

function file(filename: string): BlockTree {
  return { driver: "file", filename };
}

Deno.test("a chain of three with relative names: every file is named, and the chain ends with null", async () => {
  using folder = new ImageFolder();
  const base = folder.file("base.img", 1 << 20);
  const middle = folder.overlay("middle.qcow2", "base.img", "raw");
  const top = folder.overlay("top.qcow2", "middle.qcow2", "qcow2");
  assertEquals(await qcow2(top), {
    driver: "qcow2",
    file: file(top),
    ...PIECES,
    backing: { driver: "qcow2", file: file(middle), ...PIECES, backing: { driver: "raw", file: file(base) } },
  });
  assertEquals(describeTree(await qcow2(top)), `qcow2 ${top}, backed by qcow2 ${middle}, backed by raw ${base}`);
  const alone = folder.create("alone.qcow2", "qcow2");
  assertEquals(await qcow2(alone), { driver: "qcow2", file: file(alone), ...PIECES, backing: null });
});

Deno.test("qcow2's tables are read and written in pieces, unless a cluster is smaller or the user says otherwise", async () => {
  using folder = new ImageFolder();
  const small = folder.create("small.qcow2", "qcow2", "-o", "cluster_size=2k");
  const usual = folder.create("usual.qcow2", "qcow2");
  assertEquals((await qcow2(small))["l2-cache-entry-size"], undefined);
  const named = { driver: "qcow2", "file.filename": usual, "l2-cache-entry-size": 512 };
  assertEquals((await tree({ format: "json", target: JSON.stringify(named) }))["l2-cache-entry-size"], 512);
  for (const target of [small, usual]) await opens({ format: "qcow2", target });
});

Deno.test("names with colons, commas, quotes, spaces, hashes and of other alphabets", async () => {
  using folder = new ImageFolder();
  const names = [
    "a:b",
    "nbd:x",
    "json:{}",
    "c,d",
    "e f",
    "it's",
    'say "hi"',
    "größe-円",
    "#?%20",
    "-q",
    "back\\slash",
    "{}",
  ];
  for (const [at, name] of names.entries()) {
    const base = folder.file(name, 1 << 20);
    const absolute = folder.overlay(`absolute${at}`, base, "raw");
    const relative = folder.overlay(`relative${at} ${name}`, `./${name}`, "raw");
    for (const top of [absolute, relative]) {
      assertEquals((await qcow2(top))["backing"], { driver: "raw", file: file(base) }, top);
    }
    await opens({ format: "qcow2", target: relative });
  }
});

Deno.test("a link leads to the file that is opened, and a relative backing file is beside the link, as for QEMU", async () => {
  using folder = new ImageFolder();
  Deno.mkdirSync(`${folder.path}/real`);
  Deno.mkdirSync(`${folder.path}/link`);
  const top = folder.overlay("real/top.qcow2", "base.img", "raw");
  const base = folder.file("link/base.img", 512);
  Deno.symlinkSync(top, `${folder.path}/link/top`);
  const name = { format: "qcow2", target: `${folder.path}/link/top` };
  assertEquals(
    await refusal(folder, name),
    "Cannot open image qcow2:/F/link/top: the header of /F/link/top names the backing file /F/link/base.img, which is not in the " +
      "image's own directory /F/real; allow it with --allow-image /F/link/base.img if it is meant",
  );
  assertEquals((await tree(name, { allowImages: [`${folder.path}/link/*`] }))["backing"], {
    driver: "raw",
    file: file(base),
  });
});

Deno.test("a backing file elsewhere is refused with the option that allows it, and nothing has opened it", async () => {
  using folder = new ImageFolder();
  using other = new Folder();
  const base = other.file("base.img", 512);
  const top = folder.overlay("top.qcow2", base, "raw");
  const name = { format: "qcow2", target: top };
  const line = (await refusal(folder, name)).replaceAll(other.path, "/O");
  assertEquals(
    line,
    "Cannot open image qcow2:/F/top.qcow2: the header of /F/top.qcow2 names the backing file /O/base.img, which is not in the image's own directory " +
      "/F; allow it with --allow-image /O/base.img if it is meant",
  );
  await tree(name, { allowImages: [base] });
  Deno.symlinkSync("/etc/hostname", `${folder.path}/inside`);
  run("qemu-img", "rebase", "-u", "-F", "raw", "-b", "inside", "-f", "qcow2", top);
  assertEquals(
    (await refusal(folder, name)).includes(
      "names the backing file /F/inside (a link to /etc/hostname), which is not in",
    ),
    true,
  );
  // Whether a file is there is told of the own directory only.
  run("qemu-img", "rebase", "-u", "-F", "raw", "-b", "/nonexistent/../etc/none", "-f", "qcow2", top);
  assertEquals(
    (await refusal(folder, name)).endsWith("own directory /F; allow it with --allow-image /etc/none if it is meant"),
    true,
  );
  // A FIFO would hang whoever opens it.
  run("mkfifo", `${folder.path}/fifo`);
  run("qemu-img", "rebase", "-u", "-F", "raw", "-b", "fifo", "-f", "qcow2", top);
  assertEquals((await refusal(folder, name)).includes("neither a regular file nor a block device"), true);
});

Deno.test("stores and other protocols in a header are refused unless a pattern allows them", async () => {
  using folder = new ImageFolder();
  const top = folder.create("top.qcow2", "qcow2");
  const name = { format: "qcow2", target: top };
  const backing = (text: string): void =>
    void run("qemu-img", "rebase", "-u", "-F", "raw", "-b", text, "-f", "qcow2", top);
  backing("nbd://me:hunter2@host/disk");
  assertEquals(
    await refusal(folder, name),
    "Cannot open image qcow2:/F/top.qcow2: the header of /F/top.qcow2 names the backing file with a password; name the whole chain by json:",
  );
  backing("nbd://host/disk");
  assertEquals(
    await refusal(folder, name),
    "Cannot open image qcow2:/F/top.qcow2: the header of /F/top.qcow2 names the backing file nbd://host/disk; allow it with --allow-image " +
      "nbd://host/disk if it is meant",
  );
  const nbd = { driver: "nbd", server: { type: "inet", host: "host", port: "10809" }, export: "disk" };
  assertEquals((await qcow2(top, { allowImages: ["nbd://host/*"] }))["backing"], { driver: "raw", file: nbd });
  backing("fat:/etc");
  assertEquals(
    await refusal(folder, name),
    "Cannot open image qcow2:/F/top.qcow2: the header of /F/top.qcow2 names the backing file fat:/etc, which is neither a path nor a " +
      "known URI; name another in the header, or the whole chain by json:",
  );
});

Deno.test("json: in a header may name formats over files in the own directory; other drivers and secrets by a pattern", async () => {
  using folder = new ImageFolder();
  const base = folder.file("base.img", 512);
  const top = folder.create("top.qcow2", "qcow2");
  const name = { format: "qcow2", target: top };
  const backing = (options: unknown): string => {
    const text = `json:${JSON.stringify(options)}`;
    run("qemu-img", "rebase", "-u", "-F", "raw", "-b", text, "-f", "qcow2", top);
    return text;
  };
  backing({ driver: "raw", file: { driver: "file", filename: base } });
  assertEquals((await qcow2(top))["backing"], { driver: "raw", file: file(base) });
  backing({ driver: "file", filename: base });
  assertEquals((await qcow2(top))["backing"], { driver: "raw", file: file(base) });
  backing({ driver: "raw", "file.filename": "/etc/hostname" });
  assertEquals(
    (await refusal(folder, name)).includes("names the backing file /etc/hostname, which is not in the image's own"),
    true,
  );
  backing({ driver: "raw", "file.filename": "base.img" });
  assertEquals((await refusal(folder, name)).includes("the file name base.img is relative; name it from / on"), true);
  const text = backing({ driver: "raw", file: { driver: "null-co", size: 512 } });
  assertEquals(
    (await refusal(folder, name)).includes(`names the backing file ${text}; allow it with --allow-image`),
    true,
  );
  assertEquals((await qcow2(top, { allowImages: ["json:**"] }))["backing"], {
    driver: "raw",
    file: { driver: "null-co", size: 512 },
  });
  backing({ driver: "luks", "key-secret": "/etc/shadow", file: { driver: "file", filename: base } });
  assertEquals(
    (await refusal(folder, name)).includes("with the secret key-secret; name the whole chain by json:"),
    true,
  );
});

Deno.test("a backing file without a format is refused with the command that writes it", async () => {
  using folder = new ImageFolder();
  folder.file("base image", 512);
  const top = folder.overlay("top.qcow2", "base image", "raw");
  forgetBackingFormat(top);
  assertEquals(
    await refusal(folder, { format: "qcow2", target: top }),
    "Cannot open image qcow2:/F/top.qcow2: the header of /F/top.qcow2 does not say the format of its backing file base " +
      "image, so QEMU would guess it from the content; write it there: `qemu-img rebase -u -F FORMAT -b 'base image' " +
      "/F/top.qcow2`",
  );
  run("qemu-img", "rebase", "-u", "-F", "raw", "-b", "base image", "-f", "qcow2", top);
  await opens({ format: "qcow2", target: top });
});

Deno.test("missing files and chains without end are refused, and say which file", async () => {
  using folder = new ImageFolder();
  const [one, two] = [folder.overlay("one", "two", "qcow2"), folder.overlay("two", "one", "qcow2")];
  const self = folder.overlay("self", "self", "raw");
  const top = folder.overlay("top", "missing base", "raw");
  assertEquals(
    await refusal(folder, { format: "qcow2", target: one }),
    "Cannot open image qcow2:/F/one: its chain of backing files comes back to /F/one; give that image another backing file",
  );
  assertEquals((await refusal(folder, { format: "qcow2", target: two })).includes("comes back to /F/two"), true);
  assertEquals((await refusal(folder, { format: "qcow2", target: self })).includes("comes back to /F/self"), true);
  assertEquals(
    await refusal(folder, { format: "qcow2", target: top }),
    "Cannot open image qcow2:/F/top: the backing file /F/missing base does not exist; put it there, or name where it is: " +
      "`qemu-img rebase -u -F FORMAT -b PATH /F/top`",
  );
  assertEquals(
    await refusal(folder, { format: "qcow2", target: `${folder.path}/nothing` }),
    "Cannot open image qcow2:/F/nothing: there is no such file; name an existing file, or create it with `qemu-img create`",
  );
  assertEquals((await refusal(folder, { format: "qcow2", target: folder.path })).includes("it is a directory"), true);
});

Deno.test("an image of another format than it is named says so", async () => {
  using folder = new ImageFolder();
  const raw = folder.file("raw", 1 << 20);
  for (const format of ["qcow2", "qed", "vmdk", "vdi", "vhdx", "vpc", "luks", "parallels", "qcow", "bochs", "cloop"]) {
    const line = await refusal(folder, { format, target: raw });
    assertEquals(
      [line.startsWith(`Cannot open image ${format}:/F/raw: `), line.includes("json:")],
      [true, false],
      line,
    );
  }
});

Deno.test("differences to a parent and images of several files are refused with the way to convert them", async () => {
  using folder = new ImageFolder();
  const vhd = folder.create("child.vhd", "vpc", "-o", "subformat=dynamic");
  using writer = Deno.openSync(vhd, { write: true });
  writer.seekSync(60, Deno.SeekMode.Start);
  writer.writeSync(new Uint8Array([0, 0, 0, 4])); // the type of a differencing disk
  assertEquals(
    await refusal(folder, { format: "vpc", target: vhd }),
    "Cannot open image vpc:/F/child.vhd: it is a VHD that holds only differences to its parent; merge it first: " +
      "`vhd-util coalesce -n /F/child.vhd` (XenServer, XCP-ng) and attach the parent, or `VBoxManage clonemedium " +
      "/F/child.vhd COPY.vdi --format VDI` and attach vdi:COPY.vdi",
  );
  const flat = folder.create("flat.vmdk", "vmdk", "-o", "subformat=monolithicFlat");
  assertEquals(
    await refusal(folder, { format: "vmdk", target: flat }),
    "Cannot open image vmdk:/F/flat.vmdk: it is a vmdk of several files; convert it: `qemu-img convert -f vmdk -O qcow2 " +
      "/F/flat.vmdk COPY.qcow2`",
  );
  const base = folder.create("base.vmdk", "vmdk");
  const child = `${folder.path}/child.vmdk`;
  run("qemu-img", "create", "-q", "-f", "vmdk", "-b", base, "-F", "vmdk", child);
  assertEquals(
    (await refusal(folder, { format: "vmdk", target: child })).includes("vmdk of differences to its parent"),
    true,
  );
});

Deno.test("an external data file is a node of its own, and must be in the own directory", async () => {
  using folder = new ImageFolder();
  const data = `${folder.path}/data.raw`;
  const top = folder.create("top.qcow2", "qcow2", "-o", `data_file=${data},data_file_raw=on`);
  assertEquals(await qcow2(top), {
    driver: "qcow2",
    file: file(top),
    "data-file": file(data),
    ...PIECES,
    backing: null,
  });
  await opens({ format: "qcow2", target: top });
  using other = new ImageFolder();
  const moved = `${other.path}/top.qcow2`;
  Deno.renameSync(top, moved);
  const line = await refusal(other, { format: "qcow2", target: moved });
  assertEquals(line.includes(`names the data file ${data}, which is not in the image's own directory /F`), true);
  // qemu-img has not opened what the header names, or it would be the one to complain.
  const odd = other.create("odd.qcow2", "qcow2", "-o", `data_file=${other.path}/odd.raw`);
  run("mkfifo", `${other.path}/fifo`);
  run("qemu-img", "amend", "-f", "qcow2", "-o", `data_file=${other.path}/fifo`, odd);
  const complaint = await refusal(other, { format: "qcow2", target: odd });
  assertEquals(complaint.includes("/F/fifo: it is neither a regular file nor a block device"), true, complaint);
});

Deno.test("an encrypted image needs the file with its passphrase, a plain one must not have one", async () => {
  using folder = new ImageFolder();
  const key = folder.file("key", new TextEncoder().encode("hunter2"));
  const secret = ["--object", `secret,id=s,file=${key}`, "-o"];
  const luks = folder.create("a.luks", "luks", ...secret, "key-secret=s,iter-time=100");
  const encrypted = folder.create(
    "a.qcow2",
    "qcow2",
    ...secret,
    "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=100",
  );
  const plain = folder.create("plain.qcow2", "qcow2");
  for (const [format, target] of [["luks", luks], ["qcow2", encrypted]] as const) {
    assertEquals(
      await refusal(folder, { format, target }),
      `Cannot open image ${format}:/F/a.${format}: /F/a.${format} is encrypted; name the file with its passphrase: ` +
        `format=${format},passphrase-file=FILE,target=/F/a.${format}`,
    );
    await opens({ format, target, passphraseFile: key });
    await opens({ format, target, passphraseFile: "key" }, { credentialsDirectory: folder.path });
  }
  assertEquals(
    await refusal(folder, { format: "qcow2", target: plain, passphraseFile: key }),
    "Cannot open image format=qcow2,passphrase-file=/F/key,target=/F/plain.qcow2: /F/plain.qcow2 is not encrypted; leave " +
      "passphrase-file= out",
  );
  assertEquals(
    await refusal(folder, { format: "luks", target: luks, passphraseFile: "db.key" }),
    'Cannot use secret file "db.key" of image format=luks,passphrase-file=db.key,target=/F/a.luks: there are no systemd ' +
      "credentials (CREDENTIALS_DIRECTORY is not set); name an absolute path, or add LoadCredential= to the unit and name " +
      "that credential",
  );
});

Deno.test("json: by the user: any driver, backing files from the header where it names none, secrets by files", async () => {
  using folder = new ImageFolder();
  const base = folder.file("base.img", 1 << 20);
  const top = folder.overlay("top.qcow2", "base.img", "raw");
  const json = (options: unknown): ImageName => ({ format: "json", target: JSON.stringify(options) });
  assertEquals(await tree(json({ driver: "qcow2", "file.filename": top, "l2-cache-size": 65536 })), {
    driver: "qcow2",
    file: file(top),
    "l2-cache-size": 65536,
    ...PIECES,
    backing: { driver: "raw", file: file(base) },
  });
  assertEquals((await tree(json({ driver: "qcow2", "file.filename": top, backing: null })))["backing"], null);
  const other = folder.overlay("other.qcow2", "base.img", "raw");
  const named = { driver: "qcow2", file: file(top), backing: { driver: "qcow2", file: file(other) } };
  assertEquals(
    await opens(json(named)),
    `qcow2 ${top}, backed by qcow2 ${other}, backed by raw ${base}`,
  );
  const wrapped = { driver: "raw", offset: 512, file: { driver: "qcow2", file: file(top) } };
  assertEquals(
    await opens(json(wrapped)),
    `raw qcow2 ${top}, backed by raw ${base}`,
  );
  await opens(json({ driver: "null-co", size: 1 << 20, "read-zeroes": true }));
});

Deno.test("what xenstore names needs a pattern, and the header's rule holds beside it", async () => {
  using folder = new ImageFolder();
  folder.file("base.img", 512);
  const top = folder.overlay("top.qcow2", "base.img", "raw");
  await qcow2(top, { allowImages: [] });
  assertEquals(
    await refusal(folder, { format: "json", target: '{"driver":"null-co"}' }, { allowImages: [] }),
    "Cannot use image json:{...}: xenstore names QEMU's options, which is not allowed; allow it with --allow-image " +
      `'json:{"driver":"null-co"}' if it is meant`,
  );
  const secret = { format: "json", target: '{"driver":"https","url":"https://me:hunter2@host/a"}' };
  assertEquals(
    await refusal(folder, secret, { allowImages: [] }),
    'Cannot use image json:{...}: its url contains a password; write "username", and name a file in "password-secret"',
  );
});

Deno.test({
  name:
    "a block device is a host_device under its real name, and a header on it names nothing beside it (needs losetup)",
  ignore: losetup("--find") === undefined,
  fn: async () => {
    using folder = new ImageFolder();
    const image = folder.create("disk.qcow2", "qcow2");
    const device = losetup("--find", "--show", image)!;
    using _loop = { [Symbol.dispose]: () => void losetup("--detach", device) };
    Deno.symlinkSync(device, `${folder.path}/link`);
    const target = `${folder.path}/link`;
    assertEquals(await qcow2(target), {
      driver: "qcow2",
      file: { driver: "host_device", filename: device },
      ...PIECES,
      backing: null,
    });
    await opens({ format: "qcow2", target });
    await opens({ format: "raw", target });
    run("qemu-img", "rebase", "-u", "-F", "raw", "-b", "null", "-f", "qcow2", device);
    assertEquals(
      await refusal(folder, { format: "qcow2", target: device }),
      `Cannot open image qcow2:${device}: the header of ${device} names the backing file /dev/null, which is not allowed; ` +
        "allow it with --allow-image /dev/null if it is meant",
    );
  },
});

/** Runs losetup; undefined if this machine has no loop devices for us. */
function losetup(...args: string[]): string | undefined {
  try {
    const { success, stdout } = new Deno.Command("losetup", { args, stderr: "null" }).outputSync();
    return success ? new TextDecoder().decode(stdout).trim() : undefined;
  } catch {
    return undefined;
  }
}
