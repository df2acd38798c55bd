/**
 * What xenstore and images' headers may name: local files, an image's own directory, and what patterns allow.
 */

import { assertEquals, assertLess, assertThrows } from "@std/assert";
import fc from "fast-check";
import { XenblkError } from "../../../lib/errors.ts";
import type { ImageName } from "../../../lib/storage/image/spec.ts";
import {
  allowsFile,
  checkName,
  literalPattern,
  type LocalFile,
  matchesPattern,
  ownDirectory,
} from "../../../lib/storage/qemu/allow.ts";

function file(real: string, named = real): LocalFile {
  return { named, real, isDevice: false };
}

function device(real: string, named = real): LocalFile {
  return { named, real, isDevice: true };
}

Deno.test("a pattern matches the whole text; one star stops at a slash, two do not", () => {
  const cases: readonly [string, string, boolean][] = [
    ["/srv/base/*.qcow2", "/srv/base/a.qcow2", true],
    ["/srv/base/*.qcow2", "/srv/base/x/a.qcow2", false],
    ["/srv/base/**", "/srv/base/x/a.qcow2", true],
    ["/srv/base", "/srv/base/a", false],
    ["nbd://host:10809/*", "nbd://host:10809/disk", true],
    ["nbd://host:10809/*", "nbd://evil:10809/disk", false],
    ["nbd+unix:///*?socket=/run/*.sock", "nbd+unix:///a?socket=/run/b.sock", true],
    ["nbd+unix:///*?socket=/run/*.sock", "nbd+unix:///aXsocket=/run/b.sock", false],
    ["/srv/a.b", "/srv/aXb", false],
    ["/srv/\\*", "/srv/*", true],
    ["/srv/\\*", "/srv/a", false],
    ["**", "anything\nat all", true],
    ["", "", true],
    ["", "x", false],
    ["*a*b*", "xxaxxbxx", true],
    ["*a*b*", "xxbxxaxx", false],
    ["*/b", "a/a/b", false],
    ["**/b", "a/a/b", true],
    ["a\\", "a\\", true],
  ];
  for (const [pattern, text, isMatch] of cases) {
    assertEquals(matchesPattern(pattern, text), isMatch, `${pattern} ${text}`);
  }
});

Deno.test("a pattern with many stars costs no more time than others", () => {
  for (const star of ["*", "**"]) {
    const beganMs = performance.now();
    assertEquals(matchesPattern(`${star}a`.repeat(40) + "b", "a".repeat(4000)), false);
    assertLess(performance.now() - beganMs, 2000);
  }
});

Deno.test("the literal pattern of a text matches that text and no other", () => {
  const text = fc.oneof(fc.string({ unit: "binary" }), fc.stringMatching(/^[*\\a/?.]*$/));
  fc.assert(fc.property(text, text, (one, other) => {
    assertEquals([matchesPattern(literalPattern(one), one), matchesPattern(literalPattern(one), other)], [
      true,
      one === other,
    ]);
  }));
});

Deno.test("xenstore may name local files of all formats; stores and options by a pattern only", () => {
  const allowed: readonly (readonly [ImageName, string[]])[] = [
    [{ format: "raw", target: "/srv/disk.img" }, []],
    [{ format: "qcow2", target: "/anywhere/disk" }, []],
    [{ format: "memory", target: "1G" }, []],
    [{ format: "my", target: "disk" }, []],
    [{ format: "raw", target: "nbd://host/disk" }, ["nbd://host/*"]],
    [{ format: "qcow2", target: "nbd://host/disk" }, ["nbd://host/*"]],
    [{ format: "qcow2", target: "nbd://host/disk" }, ["qcow2:nbd://host/*"]],
    [{ format: "json", target: '{"driver":"null-co"}' }, ["json:**"]],
    [{ format: "luks", target: "/srv/db", passphraseFile: "db.key" }, []],
    [{ format: "luks", target: "/srv/db", passphraseFile: "/etc/keys/db" }, ["/etc/keys/*"]],
    [{ format: "luks", target: "/srv/db", passphraseFile: "/etc/keys/db" }, [
      "format=luks,passphrase-file=/etc/keys/db,**",
    ]],
  ];
  for (const [name, patterns] of allowed) checkName(name, patterns);
  const line = (name: ImageName, patterns: string[] = []): string =>
    assertThrows(() => checkName(name, patterns), XenblkError).line;
  assertEquals(
    line({ format: "raw", target: "nbd://host/disk" }, ["/srv/**", "nbd://other/*"]),
    "Cannot use image nbd://host/disk: xenstore names a store, which is not allowed; allow it with --allow-image " +
      "nbd://host/disk if it is meant",
  );
  assertEquals(
    line({ format: "json", target: '{"driver":"null-co"}' }, ["nbd://**"]),
    "Cannot use image json:{...}: xenstore names QEMU's options, which is not allowed; allow it with --allow-image " +
      `'json:{"driver":"null-co"}' if it is meant`,
  );
  assertEquals(
    line({ format: "luks", target: "/srv/db", passphraseFile: "/etc/shadow" }),
    "Cannot use image format=luks,passphrase-file=/etc/shadow,target=/srv/db: xenstore names the file /etc/shadow, which is " +
      "not allowed; allow it with --allow-image /etc/shadow if it is meant, or name a systemd credential",
  );
});

Deno.test("a header may name regular files in the image's own directory or below", () => {
  const own = ownDirectory(file("/srv/vm/disk.qcow2"));
  assertEquals(own, "/srv/vm");
  assertEquals(allowsFile(file("/srv/vm/base.qcow2"), own, []), true);
  assertEquals(allowsFile(file("/srv/vm/bases/1/base.qcow2"), own, []), true);
  assertEquals(allowsFile(file("/srv/vm2/base.qcow2"), own, []), false);
  assertEquals(allowsFile(file("/etc/shadow", "/srv/vm/link"), own, []), false, "a link counts as what it leads to");
  assertEquals(allowsFile(device("/srv/vm/node"), own, []), false, "no device");
  assertEquals(allowsFile(file("/srv/base/a"), own, ["/srv/base/*"]), true);
  assertEquals(allowsFile(file("/etc/shadow", "/srv/base/a"), own, ["/srv/base/*"]), false);
});

Deno.test("a device, and an image in /, /dev, /proc or /sys, allows nothing beside it", () => {
  assertEquals(ownDirectory(device("/dev/dm-3", "/dev/vg/lv")), undefined);
  for (const path of ["/disk", "/dev/disk", "/dev/mapper/x", "/proc/x", "/sys/x"]) {
    assertEquals(ownDirectory(file(path)), undefined, path);
  }
  assertEquals(ownDirectory(file("/devices/disk")), "/devices");
  assertEquals(ownDirectory(file("/dev/shm/disk")), "/dev/shm");
  assertEquals(allowsFile(device("/dev/sda"), undefined, []), false);
  assertEquals(allowsFile(device("/dev/dm-3", "/dev/vg/base"), undefined, ["/dev/vg/*"]), true);
  assertEquals(allowsFile(device("/dev/sda", "/srv/base/link"), undefined, ["/srv/base/*"]), false);
  assertEquals(allowsFile(device("/dev/sda", "/dev/vg/../sda"), undefined, ["/dev/vg/**"]), false);
});
