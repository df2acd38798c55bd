/**
 * URIs of stores as QEMU's options: every scheme, its defaults, and what is wrong with others.
 */

import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { XenblkError } from "../../../lib/errors.ts";
import { storeTree } from "../../../lib/storage/qemu/store.ts";

function refusal(uri: string): string {
  return assertThrows(() => storeTree(uri), XenblkError).line;
}

Deno.test("NBD by TCP, by a Unix socket, with TLS", () => {
  const inet = { type: "inet", host: "host", port: "10809" };
  assertEquals(storeTree("nbd://host/disk%201"), { driver: "nbd", server: inet, export: "disk 1" });
  assertEquals(storeTree("nbd://[fd00::1]:10810"), {
    driver: "nbd",
    server: { type: "inet", host: "fd00::1", port: "10810" },
    export: "",
  });
  assertEquals(storeTree("nbd+unix:///disk?socket=/run/a%20b.sock"), {
    driver: "nbd",
    server: { type: "unix", path: "/run/a b.sock" },
    export: "disk",
  });
  assertEquals(storeTree("nbd+unix:///disk?socket=/run/a+b.sock").server, { type: "unix", path: "/run/a+b.sock" });
  assertEquals(storeTree("nbds://host/disk?tls-certificates=/etc/pki&tls-hostname=nbd.example"), {
    driver: "nbd",
    server: inet,
    export: "disk",
    "tls-creds": "/etc/pki",
    "tls-hostname": "nbd.example",
  });
});

Deno.test("RBD in QEMU's spelling, with namespace, snapshot, options and escaped characters", () => {
  assertEquals(storeTree("rbd:pool/image"), { driver: "rbd", pool: "pool", image: "image" });
  assertEquals(storeTree("rbd:pool/space/image@snap:id=admin:conf=/etc/ceph/a\\:b.conf:key-file=/etc/keys/rbd"), {
    driver: "rbd",
    pool: "pool",
    namespace: "space",
    image: "image",
    snapshot: "snap",
    user: "admin",
    conf: "/etc/ceph/a:b.conf",
    "key-secret": "/etc/keys/rbd",
  });
  assertEquals(storeTree("rbd:p\\@1/i\\/2\\:3@s").image, "i/2:3");
});

Deno.test("iSCSI, NFS, SSH and HTTP", () => {
  assertEquals(storeTree("iscsi://me@host/iqn.2001-04.com.example:disk/3?password-file=/etc/keys/iscsi"), {
    driver: "iscsi",
    transport: "tcp",
    portal: "host:3260",
    target: "iqn.2001-04.com.example:disk",
    lun: 3,
    user: "me",
    "password-secret": "/etc/keys/iscsi",
  });
  assertEquals(storeTree("iscsi://[fd00::1]:3261/iqn.x:y/0?initiator-name=iqn.me"), {
    driver: "iscsi",
    transport: "tcp",
    portal: "[fd00::1]:3261",
    target: "iqn.x:y",
    lun: 0,
    "initiator-name": "iqn.me",
  });
  assertEquals(storeTree("nfs://host/srv/disk.img?uid=107&gid=0"), {
    driver: "nfs",
    server: { type: "inet", host: "host" },
    path: "/srv/disk.img",
    user: 107,
    group: 0,
  });
  assertEquals(storeTree("ssh://me@host:2222/srv/disk.img?host_key_check=sha256:ab"), {
    driver: "ssh",
    server: { host: "host", port: "2222" },
    path: "/srv/disk.img",
    "host-key-check": { mode: "hash", type: "sha256", hash: "ab" },
    user: "me",
  });
  assertEquals(storeTree("ssh://host/disk")["host-key-check"], { mode: "known_hosts" });
  assertEquals(storeTree("https://me@host:8443/disk.img?v=1&sig=a%2Fb"), {
    driver: "https",
    url: "https://host:8443/disk.img?v=1&sig=a%2Fb",
    username: "me",
  });
});

Deno.test("what is wrong with a URI is said with how to write it", () => {
  const lines: Record<string, string> = {
    "nbd+unix:///disk": "it names no socket; write it like nbd+unix:///EXPORT?socket=/PATH",
    "nbd+unix:///disk?socket=run/x": "its socket is not an absolute path; name it from / on",
    "nbd:///disk": "it names no host; write the host after //",
    "nbds://host/disk":
      "it does not say which certificates to use for TLS; add tls-certificates=/DIRECTORY, where ca-cert.pem is",
    "nbd://host/disk?colour=red": "its parameter colour is unknown; leave it out, or use json:",
    "nbd://[host/x": "it is not a URI; write it like nbd://HOST:PORT/NAME, and odd characters as %20",
    "nbd://ho st/x": "it has a space, a backslash or a control character in it; write %20 and so on",
    "ssh://host/srv/.\t./etc/x": "it has a space, a backslash or a control character in it; write %20 and so on",
    "http://host/srv\\..\\x": "it has a space, a backslash or a control character in it; write %20 and so on",
    "ssh://host/srv/..%2f..%2fetc": "it has an encoded slash in it; write / itself",
    "nbd+unix:///disk?socket=/run/%2e./x": "its path has a . or .. in it; write the path without",
    "nbd+unix:///disk?socket=/a&socket=/b": "it has the parameter socket twice; leave one of them out",
    "nbd://host/%zz": "it is not a URI; write it like nbd://HOST:PORT/NAME, and odd characters as %20",
    "nbd://host/a#b": "it has a # in it; write %23",
    "ssh://host/a/../b": "its path has a . or .. in it; write the path without",
    "https://host/%2e%2E/b": "its path has a . or .. in it; write the path without",
    "ssh://host/": "it names no path; write the path after the host",
    "ssh://host/x?host_key_check=maybe": "its host_key_check is unknown; use yes, no, or sha256:HASH",
    "nfs://host/x?uid=root": "its uid is not a number; write uid=0 or another number",
    "iscsi://host/iqn.x": "it names no target and LUN; write it like iscsi://HOST/iqn.2001-04.com.example:disk/0",
    "iscsi://me@host/iqn.x/0":
      "a user and a password belong together; write iscsi://USER@HOST/TARGET/LUN?password-file=/PATH",
    "rbd:image": "it names no pool and image; write it like rbd:POOL/IMAGE or rbd:POOL/NAMESPACE/IMAGE@SNAPSHOT",
    "rbd:pool/image:mon_host=a":
      "its option mon_host is unknown; use id=, conf= and key-file=; other options belong into the file of conf=",
  };
  for (const [uri, line] of Object.entries(lines)) assertEquals(refusal(uri), `Cannot use image ${uri}: ${line}`);
});

Deno.test("whatever follows a scheme, nothing but an expected error is thrown", () => {
  const scheme = fc.constantFrom(
    "nbd://",
    "nbds://",
    "nbd+unix://",
    "iscsi://",
    "nfs://",
    "ssh://",
    "https://",
    "rbd:",
  );
  fc.assert(
    fc.property(scheme, fc.oneof(fc.webPath(), fc.string(), fc.string({ unit: "binary" })), (scheme, rest) => {
      try {
        storeTree(scheme + rest);
      } catch (error) {
        if (!(error instanceof XenblkError)) throw error;
      }
    }),
    { numRuns: 2000 },
  );
});
