/**
 * Image arguments as people and toolstacks write them: paths with and without colons, formats, URIs, xl's syntax, sizes,
 * what is refused with which words, and that nothing but an expected error is ever thrown.
 */

import { assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import { absolutePath } from "../../../lib/path_lookup.ts";
import { formatSize, parseSize } from "../../../lib/sizes.ts";
import fc from "fast-check";
import { enginesFor, needsDaemon } from "../../../lib/storage/image/formats.ts";
import {
  imageLabel,
  imageName,
  imageText,
  paramsOf,
  parseImage,
  parseParams,
} from "../../../lib/storage/image/spec.ts";
import { openDisk } from "../../../lib/storage/open.ts";
import { Folder } from "../rig.ts";

const nothing = (): Promise<boolean> => Promise.resolve(false);

async function refusal(text: string): Promise<XenblkError> {
  return await assertRejects(() => parseImage(text, nothing), XenblkError);
}

Deno.test("a bare path is a raw image", async () => {
  assertEquals(await parseImage("/srv/disk.img", nothing), { format: "raw", target: "/srv/disk.img" });
  assertEquals(await parseImage("disk.img", nothing), { format: "raw", target: "disk.img" });
});

Deno.test("a format ends at the first colon; aio, file and phy mean raw", async () => {
  for (const format of ["raw", "aio", "file", "phy", "AIO"]) {
    assertEquals(await parseImage(`${format}:/srv/a:b.img`, nothing), { format: "raw", target: "/srv/a:b.img" });
  }
  assertEquals(await parseImage("memory:64M", nothing), { format: "memory", target: "64M" });
  assertEquals(await parseImage("null:1G", nothing), { format: "null", target: "1G" });
});

Deno.test("an existing file is a path, whatever colons it has", async () => {
  using folder = new Folder();
  const path = folder.file("raw:odd,name=x.img", 512);
  assertEquals(await parseImage(path), { format: "raw", target: path });
  assertEquals(await parseImage(`aio:${path}`), { format: "raw", target: path });
  assertEquals(await parseImage("memory:1M", (name) => Promise.resolve(name === "memory:1M")), {
    format: "raw",
    target: "memory:1M",
  });
});

Deno.test("in params a format that is served is one, whatever files there are", async () => {
  assertEquals(await parseParams("aio:a.img"), { format: "raw", target: "a.img" });
  assertEquals(await parseParams("/srv/a:b.img"), { format: "raw", target: "/srv/a:b.img" });
  assertEquals(await parseParams("qcow2:/srv/a.qcow2"), { format: "qcow2", target: "/srv/a.qcow2" });
  // A program's own openDisk may know it.
  for (const format of ["qcow2:/srv/a.qcow2", "nbd://host/a", "format=luks,passphrase-file=/k,target=/srv/a,b"]) {
    assertEquals(await parseParams(`aio:${format}`), await parseParams(format), "xl's raw disk with such a target");
  }
  assertEquals(await parseParams("aio:/srv/qcow2:a.img"), { format: "raw", target: "/srv/qcow2:a.img" });
  assertEquals(await parseParams("my:disk.img"), { format: "my", target: "disk.img" });
});

Deno.test("what cannot be a format is part of the path", async () => {
  assertEquals(await parseImage("/srv/a:b", nothing), { format: "raw", target: "/srv/a:b" });
  assertEquals(await parseImage("./a:b", nothing), { format: "raw", target: "./a:b" });
});

Deno.test("xl's syntax gives fields, and its target takes the rest", async () => {
  const text = "format=raw,vdev=xvdb,access=ro,target=/srv/a,b=c.img";
  const fields = { format: "raw", target: "/srv/a,b=c.img", readOnly: true, vdev: "xvdb" };
  assertEquals(await parseImage(text, nothing), fields);
  assertEquals(await parseImage("vdev=hda,access=w,target=/d", nothing), {
    format: "raw",
    target: "/d",
    readOnly: false,
    vdev: "hda",
  });
  const cdrom = { format: "raw", target: "/c.iso", readOnly: true, cdrom: true };
  assertEquals(await parseImage("devtype=cdrom,target=/c.iso", nothing), cdrom);
});

Deno.test("access=w! in xl's syntax shares the image, and only it does", async () => {
  const shared = async (access: string): Promise<unknown> =>
    (await parseImage(`access=${access},target=/d`, nothing)).shared;
  assertEquals([await shared("w!"), await shared("rw!"), await shared("w"), await shared("r")], [
    true,
    true,
    undefined,
    undefined,
  ]);
});

Deno.test("a file name that is not UTF-8 is refused with a remedy, and a link to that file is an image", async () => {
  using folder = new Folder();
  const shell =
    `printf x >"$(printf '${folder.path}/\\377.img')"; ln -s "$(printf '\\377.img')" '${folder.path}/link.img'`;
  assertEquals(new Deno.Command("sh", { args: ["-c", shell] }).outputSync().success, true);
  // As Deno passes the bytes on, from arguments and from xenstore.
  for (const prefix of ["", "aio:", "format=raw,target="]) {
    const error = await assertRejects(() => parseImage(`${prefix}${folder.path}/\uFFFD.img`), XenblkError);
    assertMatch(error.line, /^Cannot open image \/.*: its name is not UTF-8, and Deno cannot open .*symbolic link/);
  }
  assertEquals((await parseImage(`${folder.path}/link.img`)).target, `${folder.path}/link.img`);
  assertEquals(await absolutePath(`${folder.path}/link.img`), `${folder.path}/link.img`);
  const named = folder.file("\uFFFD.img", 512);
  assertEquals((await parseImage(named)).target, named);
});

Deno.test("QEMU's formats have one spelling each", async () => {
  const spellings = {
    "qcow2": "qcow2",
    "QCOW2": "qcow2",
    "qcow": "qcow",
    "qed": "qed",
    "vmdk": "vmdk",
    "vdi": "vdi",
    "vhdx": "vhdx",
    "vhd": "vpc",
    "vpc": "vpc",
    "luks": "luks",
    "parallels": "parallels",
    "bochs": "bochs",
    "cloop": "cloop",
    "dmg": "dmg",
  };
  for (const [spelling, format] of Object.entries(spellings)) {
    assertEquals(await parseImage(`${spelling}:/srv/a:b`, nothing), { format, target: "/srv/a:b" });
    assertEquals(await parseImage(`format=${spelling},target=/srv/a`, nothing), { format, target: "/srv/a" });
  }
  const options = '{"driver":"qcow2","file":{"driver":"file","filename":"/a"}}';
  assertEquals(await parseImage(`json:${options}`, nothing), { format: "json", target: options });
});

Deno.test("a URI is a raw image in a store, unless a format precedes it", async () => {
  const uris = [
    "nbd://host:10809/disk",
    "nbds://host/disk?tls-certificates=/etc/pki",
    "nbd+unix:///disk?socket=/run/nbd.sock",
    "iscsi://user@host/iqn.2001-04.com.example:disk/0?password-file=/etc/keys/iscsi",
    "nfs://host/srv/disk.img",
    "ssh://me@host:2222/srv/disk.img",
    "http://host/disk.img",
    "https://host/disk.img?version=2",
    "rbd:pool/image@snapshot:id=admin:conf=/etc/ceph/ceph.conf",
  ];
  for (const uri of uris) {
    for (const text of [uri, `raw:${uri}`, `aio:${uri}`, `target=${uri}`]) {
      assertEquals(imageName(await parseParams(text)), { format: "raw", target: uri }, text);
    }
    assertEquals(await parseImage(`qcow2:${uri}`, nothing), { format: "qcow2", target: uri });
  }
  // A file of such a name is a file, also for those who read its name in params.
  const file = await parseImage("nbd://host/disk", () => Promise.resolve(true));
  assertEquals(file, { format: "raw", target: "./nbd://host/disk" });
});

Deno.test("what the storage daemon serves, and by which engines an image can be served", () => {
  const engines = (format: string, target: string): string => enginesFor({ format, target }).join(" ");
  assertEquals(engines("raw", "/srv/disk.img"), "auto uring file qemu");
  assertEquals(engines("raw", "nbd://host/disk"), "auto qemu");
  assertEquals(engines("qcow2", "/srv/disk.qcow2"), "auto qemu");
  assertEquals(engines("memory", "1G"), "auto memory");
  assertEquals(needsDaemon({ format: "raw", target: "./rbd:pool/image" }), false);
});

Deno.test("passphrase-file names a file or a systemd credential, of formats that can be encrypted", async () => {
  const fields = "format=luks,passphrase-file=/etc/keys/db,target=/srv/db.luks";
  const spec = { format: "luks", target: "/srv/db.luks", passphraseFile: "/etc/keys/db" };
  assertEquals(await parseParams(fields), spec);
  assertEquals(imageText(spec), fields);
  const credential = await parseImage("format=qcow2,passphrase-file=db.key,access=ro,target=/srv/db", nothing);
  assertEquals([credential.passphraseFile, credential.readOnly], ["db.key", true]);
  const line = async (text: string): Promise<string> => (await refusal(text)).line;
  assertEquals(
    await line("format=vdi,passphrase-file=/k,target=/d"),
    "Cannot use image vdi:/d: the format vdi has no passphrase; leave passphrase-file= out, or name the format luks or qcow2",
  );
  assertEquals(
    await line("format=luks,passphrase-file=keys/db,target=/d"),
    "Cannot use image luks:/d: its passphrase-file is not an absolute path; name the file from / on, or a systemd " +
      "credential by its name alone",
  );
});

Deno.test("a password in the name is refused, and no message shows it", async () => {
  const names = [
    "nbd://me:hunter2@host/disk",
    "ssh://me:hunter2@host/disk",
    "https://me:hunter2@host/disk",
    "iscsi://me%hunter2@host/iqn.x:y/0",
    "iscsi://me@host/iqn.x:y/0?password=hunter2",
    "rbd:pool/image:id=me:key=hunter2",
    "qcow2:nbd://me:hunter2@host/disk",
    "format=qcow2,target=nbd://me:hunter2@host/disk",
    "format=raw,colour=red,target=nbd://me:hunter2@host/disk",
    "format=raw,access=x,target=nbd://me:hunter2@host/disk",
  ];
  for (const name of names) {
    const error = await refusal(name);
    assertEquals(
      [error.line.includes("hunter2"), error.line.includes("***"), error.exitStatus],
      [false, true, 2],
      name,
    );
  }
  assertEquals(
    (await refusal("nbd://me:hunter2@host/disk")).message,
    "Cannot use image nbd://me:***@host/disk: it contains a password, which others could read in xenstore",
  );
  assertEquals(imageLabel({ format: "json", target: '{"password":"hunter2"}' }), "json:{...}");
});

Deno.test("a snapshot inside a qcow2 file has a name of its own, and is read-only", async () => {
  const spec = await parseImage("format=qcow2,snapshot=before it,access=rw,target=/srv/my disk", nothing);
  assertEquals(spec, { format: "qcow2", target: "/srv/my disk", snapshot: "before it", readOnly: true });
  const text = await paramsOf(imageName(spec));
  assertEquals(text, "format=qcow2,snapshot=before it,target=/srv/my disk");
  assertEquals(imageName(await parseImage(text, nothing)), imageName(spec));
});

Deno.test("a snapshot of what has none, or is no local file, is refused with the way to copy it", async () => {
  const error = await refusal("format=qcow2,snapshot=before it,target=nbd://host/disk");
  assertEquals(
    error.line,
    'Cannot use snapshot "before it" of image qcow2:nbd://host/disk: only those of local files can be opened by name; ' +
      "copy it out with `xenblk image convert qcow2:nbd://host/disk COPY --snapshot 'before it'` and attach the copy",
  );
  assertMatch(
    (await refusal("snapshot=a,target=/srv/disk")).line,
    /the format raw has none; name the format: format=qcow2/,
  );
  assertMatch(
    (await refusal("format=qcow2,snapshot=,target=/srv/disk")).line,
    /its name is empty; `xenblk image info` lists/,
  );
});

Deno.test("params have absolute paths: of a raw image without links, of others as the user named them", async () => {
  using folder = new Folder();
  const path = folder.file("a.img", 512);
  Deno.symlinkSync(path, `${folder.path}/link`);
  assertEquals(await paramsOf({ format: "raw", target: `${folder.path}/link` }), `raw:${path}`);
  assertEquals(await paramsOf({ format: "qcow2", target: `${folder.path}/link` }), `qcow2:${folder.path}/link`);
  assertEquals(await paramsOf({ format: "qcow2", target: "x.qcow2" }), `qcow2:${Deno.cwd()}/x.qcow2`);
  assertEquals(await paramsOf({ format: "raw", target: "nbd://host/x" }), "nbd://host/x");
  assertEquals(await paramsOf({ format: "memory", target: "1G" }), "memory:1G");
});

Deno.test("unknown fields and missing targets are usage errors that name them; an unknown format is one when it is opened", async () => {
  assertMatch((await refusal("raw:")).message, /nothing follows the format/);
  assertMatch((await refusal("qcow2:")).message, /nothing follows the format/);
  assertMatch((await refusal("")).message, /empty/);
  assertMatch((await refusal("format=raw,colour=red,target=/d")).message, /unknown field colour=red/);
  assertMatch((await refusal("colour=red,target=/d")).message, /unknown field colour=red/);
  assertMatch((await refusal("format=raw,access=x,target=/d")).message, /access=x has a value that is unknown/);
  assertMatch((await refusal("format=raw,vdev=xvda")).message, /nothing follows/);
  const open = async (text: string): Promise<string> => {
    const request = { ...imageName(await parseImage(text, nothing)), readOnly: false, engine: "auto" } as const;
    return (await assertRejects(() => openDisk(request), XenblkError)).line;
  };
  assertEquals(
    await open("rwa:/srv/disk"),
    "Cannot use image rwa:/srv/disk: unknown format rwa; use a path, raw:PATH, qcow2:PATH or another format of QEMU, a URI, " +
      "plugin:MODULE, memory:SIZE or null:SIZE",
  );
  assertMatch(await open("nbd:host:10809"), /unknown format nbd; write a URI, for instance nbd:\/\/HOST\/NAME$/);
  assertMatch(await open("nbd+unix:/x"), /instance nbd\+unix:\/\/\/EXPORT\?socket=PATH$/);
});

Deno.test("whatever the text, the parser throws nothing but an expected error, and its own text gives the same image", async () => {
  const piece = fc.constantFrom(
    ..."raw: qcow2: vhd: luks: json: plugin: nbd:// nbd+unix:/// rbd: iscsi:// format= target= passphrase-file= snapshot="
      .split(" "),
    ..."access= devtype= vdev= , : ; = ? & @ % %2 # / // /srv/a \\ { } [ ] \" ' \0 \uFFFD é 1G key= password= socket="
      .split(" "),
  );
  const text = fc.oneof(
    fc.string({ unit: "binary" }),
    fc.array(fc.oneof(piece, fc.string()), { maxLength: 8 }).map((all) => all.join("")),
  );
  await fc.assert(
    fc.asyncProperty(text, async (text) => {
      try {
        const name = imageName(await parseImage(text, nothing));
        assertEquals(imageName(await parseParams(imageText(name))), name);
      } catch (error) {
        if (!(error instanceof XenblkError)) throw error;
      }
    }),
    { numRuns: 3000 },
  );
});

Deno.test("sizes are read in powers of 1024 and shown likewise", () => {
  assertEquals([parseSize("4096"), parseSize("64M"), parseSize("1g"), parseSize("2GiB")], [
    4096,
    64 << 20,
    1 << 30,
    2 * 2 ** 30,
  ]);
  for (const bad of ["", "M", "1X", "-1", "1.5G", "9000000P"]) {
    assertMatch(assertThrows(() => parseSize(bad), XenblkError).message, /^Cannot read size/);
  }
  assertEquals([formatSize(512), formatSize(2 ** 30), formatSize(1536)], ["512 B", "1.0 GiB", "1.5 KiB"]);
});
