/**
 * Remote stores by their URIs, as nodes of QEMU: NBD (with libnbd's TLS parameters), RBD in QEMU's own spelling, iSCSI,
 * NFS, SSH and HTTP. Files with secrets and TLS credentials are named in the URI; a secret itself is refused in spec.ts.
 */

import { XenblkError } from "../../errors.ts";
import { withoutPasswords } from "../image/spec.ts";
import type { BlockTree } from "./tree.ts";

/** A URI in its parts, decoded. */
interface Parts {
  readonly scheme: string;
  /** Without the brackets of an IPv6 address; empty for a Unix socket. */
  readonly host: string;
  readonly port: string;
  readonly user: string;
  /** From the slash on. */
  readonly path: string;
  /** Takes a parameter of the URI; undefined if it does not have it. */
  readonly take: (name: string) => string | undefined;
}

const READERS: Readonly<Record<string, (parts: Parts, bad: Complaint) => BlockTree>> = {
  "nbd": nbdTree,
  "nbds": nbdTree,
  "nbd+unix": nbdTree,
  "nbds+unix": nbdTree,
  "iscsi": iscsiTree,
  "nfs": nfsTree,
  "ssh": sshTree,
};

/** Makes the error about a URI. */
type Complaint = (why: string, remedy: string) => XenblkError;

/** The node that a URI names. Throws {@linkcode XenblkError} (usage) that says what is wrong with it. */
export function storeTree(uri: string): BlockTree {
  const name = withoutPasswords(uri);
  const bad: Complaint = (why, remedy) =>
    new XenblkError(`Cannot use image ${name}: ${why}`, { kind: "usage", remedy });
  if (/^rbd:/i.test(uri)) return rbdTree(uri, bad);
  checkPlain(uri, bad);
  if (/^https?:/i.test(uri)) return httpTree(uri, bad);
  const parameters = new Map<string, string>();
  const parts = partsOf(uri, parameters, bad);
  const tree = READERS[parts.scheme]!(parts, bad);
  const [unknown] = parameters.keys();
  if (unknown !== undefined) throw bad(`its parameter ${unknown} is unknown`, "leave it out, or use json:");
  return tree;
}

/** Refuses what would lead elsewhere than the text says, past a pattern that allows the text. */
function checkPlain(uri: string, bad: Complaint): void {
  if (/[\p{Cc}\s\\]/u.test(uri)) {
    throw bad("it has a space, a backslash or a control character in it", "write %20 and so on");
  }
  // What follows the path of http is the server's own.
  const path = /^https?:/i.test(uri) ? uri.replace(/[?#].*/s, "") : uri;
  if (/%(2f|5c|00)/i.test(path)) throw bad("it has an encoded slash in it", "write / itself");
  if (/\/(\.|%2e){1,2}(\/|$|[?#&])/i.test(path)) throw bad("its path has a . or .. in it", "write the path without");
}

function partsOf(uri: string, parameters: Map<string, string>, bad: Complaint): Parts {
  try {
    const { protocol, hostname, port, username, pathname, search, hash } = new URL(uri);
    if (hash !== "") throw bad("it has a # in it", "write %23");
    for (const parameter of search.slice(1).split("&").filter((text) => text !== "")) {
      const [name, value] = splitOnce(parameter, "=").map(decodeURIComponent) as [string, string];
      if (parameters.has(name)) throw bad(`it has the parameter ${name} twice`, "leave one of them out");
      parameters.set(name, value);
    }
    return {
      scheme: protocol.slice(0, -1).toLowerCase(),
      host: decodeURIComponent(hostname).replace(/^\[(.*)\]$/, "$1"),
      port,
      user: decodeURIComponent(username),
      path: decodeURIComponent(pathname),
      take: (name) => {
        const value = parameters.get(name);
        parameters.delete(name);
        return value;
      },
    };
  } catch (error) {
    if (error instanceof XenblkError) throw error;
    throw bad("it is not a URI", "write it like nbd://HOST:PORT/NAME, and odd characters as %20");
  }
}

/** The nbd URI specification, and libnbd's parameters for TLS (nbd_connect_uri(3)). */
function nbdTree({ scheme, host, port, path, take }: Parts, bad: Complaint): BlockTree {
  const socket = take("socket");
  const isUnix = scheme.endsWith("+unix");
  if (isUnix !== (socket !== undefined)) {
    throw bad(isUnix ? "it names no socket" : "it names a socket", "write it like nbd+unix:///EXPORT?socket=/PATH");
  }
  if (isUnix && !socket!.startsWith("/")) throw bad("its socket is not an absolute path", "name it from / on");
  if (!isUnix && host === "") throw noHost(bad);
  const server = isUnix ? { type: "unix", path: socket } : { type: "inet", host, port: port || "10809" };
  const tree = { driver: "nbd", server, export: path.replace(/^\//, "") };
  if (!scheme.startsWith("nbds")) return tree;
  const directory = take("tls-certificates");
  if (directory === undefined || !directory.startsWith("/")) {
    throw bad(
      "it does not say which certificates to use for TLS",
      "add tls-certificates=/DIRECTORY, where ca-cert.pem is",
    );
  }
  const hostname = take("tls-hostname");
  return { ...tree, "tls-creds": directory, ...(hostname === undefined ? {} : { "tls-hostname": hostname }) };
}

/** libiscsi's `iscsi://[user@]host[:port]/target/lun`. */
function iscsiTree({ host, port, user, path, take }: Parts, bad: Complaint): BlockTree {
  if (host === "") throw noHost(bad);
  const match = /^\/([^/]+)\/(\d{1,5})$/.exec(path);
  if (match === null) {
    throw bad("it names no target and LUN", "write it like iscsi://HOST/iqn.2001-04.com.example:disk/0");
  }
  const password = take("password-file");
  if ((user === "") !== (password === undefined)) {
    throw bad("a user and a password belong together", "write iscsi://USER@HOST/TARGET/LUN?password-file=/PATH");
  }
  const initiator = take("initiator-name");
  return {
    driver: "iscsi",
    transport: "tcp",
    portal: `${host.includes(":") ? `[${host}]` : host}:${port || "3260"}`,
    target: match[1],
    lun: Number(match[2]),
    ...(password === undefined ? {} : { user, "password-secret": password }),
    ...(initiator === undefined ? {} : { "initiator-name": initiator }),
  };
}

/** libnfs's `nfs://host/path?uid=&gid=`. */
function nfsTree({ host, path, take }: Parts, bad: Complaint): BlockTree {
  if (host === "") throw noHost(bad);
  if (path.length < 2) throw noPath(bad);
  const ids = ([["uid", "user"], ["gid", "group"]] as const).flatMap(([parameter, option]) => {
    const text = take(parameter);
    if (text === undefined) return [];
    if (!/^\d{1,10}$/.test(text)) {
      throw bad(`its ${parameter} is not a number`, `write ${parameter}=0 or another number`);
    }
    return [[option, Number(text)]];
  });
  return { driver: "nfs", server: { type: "inet", host }, path, ...Object.fromEntries(ids) };
}

/** QEMU's `ssh://[user@]host[:port]/path?host_key_check=`. The key is that of the daemon's user, or of its agent. */
function sshTree({ host, port, user, path, take }: Parts, bad: Complaint): BlockTree {
  if (host === "") throw noHost(bad);
  if (path.length < 2) throw noPath(bad);
  const check = take("host_key_check") ?? "yes";
  const hash = /^(md5|sha1|sha256):(.+)$/.exec(check);
  if (hash === null && check !== "yes" && check !== "no") {
    throw bad("its host_key_check is unknown", "use yes, no, or sha256:HASH");
  }
  const mode = hash === null ? { mode: check === "yes" ? "known_hosts" : "none" } : {
    mode: "hash",
    type: hash[1],
    hash: hash[2],
  };
  const server = { host, port: port || "22" };
  return { driver: "ssh", server, path, "host-key-check": mode, ...(user === "" ? {} : { user }) };
}

/** The parameters are the server's own, so a password can be named by `json:` only. */
function httpTree(uri: string, bad: Complaint): BlockTree {
  const parameters = new Map<string, string>();
  const { scheme, host, user } = partsOf(uri, parameters, bad);
  if (host === "") throw noHost(bad);
  return {
    driver: scheme,
    url: uri.replace(/^([a-z]+:\/\/)[^/?#]*@/i, "$1"),
    ...(user === "" ? {} : { username: user }),
  };
}

/** QEMU's `rbd:pool[/namespace]/image[@snapshot][:option=value...]`, with a backslash before a `:`, `@` or `/` of a name. */
function rbdTree(uri: string, bad: Complaint): BlockTree {
  const [name, ...options] = splitAt(uri.slice("rbd:".length), ":");
  const [place, snapshot, ...more] = splitAt(name!, "@");
  const path = splitAt(place!, "/").map(unescape);
  if (path.length < 2 || path.length > 3 || path.includes("") || more.length > 0 || snapshot === "") {
    throw bad("it names no pool and image", "write it like rbd:POOL/IMAGE or rbd:POOL/NAMESPACE/IMAGE@SNAPSHOT");
  }
  const read: Record<string, string> = {};
  for (const option of options) {
    const [key, value] = splitOnce(unescape(option), "=");
    const known = new Map([["id", "user"], ["conf", "conf"], ["key-file", "key-secret"]]).get(key);
    if (known === undefined || value === "") {
      throw bad(
        `its option ${key} is unknown`,
        "use id=, conf= and key-file=; other options belong into the file of conf=",
      );
    }
    read[known] = value;
  }
  return {
    driver: "rbd",
    pool: path[0],
    ...(path.length === 3 ? { namespace: path[1] } : {}),
    image: path.at(-1),
    ...(snapshot === undefined ? {} : { snapshot: unescape(snapshot) }),
    ...read,
  };
}

/** Splits at a character that has no backslash before it. */
function splitAt(text: string, separator: string): string[] {
  const parts: string[] = [];
  let part = "";
  for (let at = 0; at < text.length; at++) {
    if (text[at] === separator) {
      parts.push(part);
      part = "";
    } else part += text[at] === "\\" ? `\\${text[++at] ?? ""}` : text[at];
  }
  return [...parts, part];
}

function splitOnce(text: string, separator: string): [string, string] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + 1)];
}

function unescape(text: string): string {
  return text.replace(/\\(.)/gs, "$1");
}

function noHost(bad: Complaint): XenblkError {
  return bad("it names no host", "write the host after //");
}

function noPath(bad: Complaint): XenblkError {
  return bad("it names no path", "write the path after the host");
}
