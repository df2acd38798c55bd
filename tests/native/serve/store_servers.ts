/**
 * Servers of remote images for tests, each on localhost and with one image: sshd, tgtd (iSCSI), qemu-nbd with TLS, and HTTP
 * with or without TLS. Keys and certificates are made for the test. No test is in here.
 */

import { assert } from "@std/assert";
import { missingProgram } from "../harness.ts";

/** Where install.sh unpacks programs that must not be installed, because they would start as services. */
const UNPACKED = new URL("../build", import.meta.url).pathname;
const PACKAGES = { sshd: "openssh-server", tgtd: "tgt", tgtadm: "tgt" } as const;
type Program = keyof typeof PACKAGES;

const PATIENCE_MS = 20_000;
/** sshd without root needs no user of its own. Its only guest has a name that is not locked. */
const NOBODY = 65534;
const SSH_USER = "disk";

/** A server's process with its children, and how a disk names its image. */
export class StoreServer implements AsyncDisposable {
  readonly #start: () => Deno.ChildProcess;
  readonly #ready: () => Promise<void>;
  #child: Deno.ChildProcess;

  private constructor(readonly uri: string, start: () => Deno.ChildProcess, ready: () => Promise<void>) {
    this.uri = uri;
    this.#start = start;
    this.#ready = ready;
    this.#child = start();
  }

  /** Starts it; `ready` resolves when it serves. */
  static async start(uri: string, start: () => Deno.ChildProcess, ready: () => Promise<void>): Promise<StoreServer> {
    const server = new StoreServer(uri, start, ready);
    await ready();
    return server;
  }

  /** Sends a signal to all its processes: those of its connections too. */
  signal(signal: Deno.Signal): void {
    for (const pid of familyOf(this.#child.pid)) {
      try {
        Deno.kill(pid, signal);
      } catch (error) {
        if (!(error instanceof Deno.errors.NotFound)) throw error;
      }
    }
  }

  /** Kills it, and starts it again. */
  async restart(): Promise<void> {
    await this.kill();
    this.#child = this.#start();
    await this.#ready();
  }

  async kill(): Promise<void> {
    this.signal("SIGKILL");
    await this.#child.status;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.kill();
  }
}

/** Says which program is missing; undefined if all are there. */
export function missingServers(): string | undefined {
  const missing = (Object.keys(PACKAGES) as Program[]).find((name) => serverProgram(name) === undefined);
  if (missing !== undefined) return `${missing} is missing (tests/native/install.sh unpacks it)`;
  if (Deno.uid() !== 0) return "these tests start daemons as root";
  return missingProgram("setpriv", "util-linux") ?? missingModules();
}

/** Keys of a client and of a server in `folder`, and the client's home directory there, with the server in known_hosts. */
export class SshKeys {
  readonly home: string;
  /** `sha256:...` of the server's key, as `host_key_check=` takes it. */
  readonly fingerprint: string;

  private constructor(readonly folder: string, readonly port: number, fingerprint: string) {
    this.home = `${folder}/user`;
    this.fingerprint = fingerprint;
  }

  static async make(folder: string): Promise<SshKeys> {
    const port = freePort();
    Deno.mkdirSync(`${folder}/user/.ssh`, { recursive: true, mode: 0o700 });
    for (const path of [`${folder}/user/.ssh/id_ed25519`, `${folder}/host_key`]) {
      await run("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", path]);
    }
    const [type, key] = Deno.readTextFileSync(`${folder}/host_key.pub`).split(" ");
    Deno.writeTextFileSync(`${folder}/user/.ssh/known_hosts`, `[127.0.0.1]:${port} ${type} ${key}\n`);
    const digest = await crypto.subtle.digest("SHA-256", Uint8Array.fromBase64(key!));
    return new SshKeys(folder, port, `sha256:${new Uint8Array(digest).toHex()}`);
  }

  /** The private key's lines, which nobody may read elsewhere. */
  get secret(): string[] {
    return Deno.readTextFileSync(`${this.home}/.ssh/id_ed25519`).split("\n").filter((line) => line.length > 40);
  }

  /**
   * Runs a command that sees another list of users: root has the test's home directory, where libssh looks for keys
   * whatever the environment says, and there is a user for sshd to let in.
   */
  confinement(): string[] {
    const users = Deno.readTextFileSync("/etc/passwd").replace(/^(root:.*:)[^:]*(:[^:]*)$/m, `$1${this.home}$2`);
    Deno.writeTextFileSync(`${this.folder}/passwd`, `${users}${SSH_USER}:x:${NOBODY}:${NOBODY}::/:/bin/sh\n`);
    const script = 'mount --bind "$0" /etc/passwd; exec "$@"';
    return ["unshare", "--mount", "sh", "-ec", script, `${this.folder}/passwd`];
  }
}

/** sshd, as a user without rights, who owns the image. */
export async function startSshd(image: string, keys: SshKeys, query = ""): Promise<StoreServer> {
  const { folder, port } = keys;
  Deno.chmodSync(folder, 0o755);
  for (const path of [image, `${folder}/host_key`]) Deno.chownSync(path, NOBODY, NOBODY);
  Deno.copyFileSync(`${folder}/user/.ssh/id_ed25519.pub`, `${folder}/authorized_keys`);
  const config = [
    `ListenAddress 127.0.0.1:${port}`,
    `HostKey ${folder}/host_key`,
    `AuthorizedKeysFile ${folder}/authorized_keys`,
    "PidFile none",
    "StrictModes no",
    "UsePAM no",
    "PasswordAuthentication no",
    "KbdInteractiveAuthentication no",
    "Subsystem sftp internal-sftp",
  ];
  Deno.writeTextFileSync(`${folder}/sshd_config`, `${config.join("\n")}\n`);
  const user = ["setpriv", `--reuid=${NOBODY}`, `--regid=${NOBODY}`, "--clear-groups"];
  const [unshare, ...confined] = keys.confinement();
  const args = [...confined, ...user, serverProgram("sshd")!, "-D", "-q", "-e", "-f", `${folder}/sshd_config`];
  return await StoreServer.start(
    `ssh://${SSH_USER}@127.0.0.1:${port}${image}${query}`,
    () => new Deno.Command(unshare!, { args, stdin: "null", stdout: "null", stderr: "null" }).spawn(),
    () => listens(port),
  );
}

/** tgtd with the image as its LUN 1, for a user with a password. */
export async function startTgtd(image: string, folder: string, password: string): Promise<StoreServer> {
  const port = freePort();
  const target = "iqn.2001-04.com.example:disk";
  const env = { TGT_IPC_SOCKET: `${folder}/tgtd` };
  Deno.writeTextFileSync(`${folder}/iscsi-password`, password);
  const args = ["--foreground", "--control-port", "1", "--iscsi", `portal=127.0.0.1:${port}`];
  const set = (mode: string, op: string, ...more: string[]): Promise<void> =>
    run(serverProgram("tgtadm")!, ["-C", "1", "--lld", "iscsi", "--mode", mode, "--op", op, ...more], env);
  return await StoreServer.start(
    `iscsi://me@127.0.0.1:${port}/${target}/1?password-file=${folder}/iscsi-password`,
    () => {
      const options = { args, env, stdin: "null", stdout: "null", stderr: "null" } as const;
      return new Deno.Command(serverProgram("tgtd")!, options).spawn();
    },
    async () => {
      await listens(port);
      await set("target", "new", "--tid", "1", "--targetname", target);
      await set("logicalunit", "new", "--tid", "1", "--lun", "1", "--backing-store", image);
      await set("account", "new", "--user", "me", "--password", password);
      await set("account", "bind", "--tid", "1", "--user", "me");
      await set("target", "bind", "--tid", "1", "--initiator-address", "ALL");
    },
  );
}

/** qemu-nbd with TLS, which asks for the client's certificate. */
export async function startNbds(image: string, format: string, certificates: string): Promise<StoreServer> {
  const port = freePort();
  const credentials = `tls-creds-x509,id=tls,endpoint=server,verify-peer=on,dir=${certificates}`;
  const tls = ["--object", credentials, "--tls-creds", "tls"];
  const place = ["--bind", "127.0.0.1", "--port", `${port}`, "--export-name", "disk"];
  const args = [...tls, ...place, "--persistent", "--format", format, image];
  return await StoreServer.start(
    `nbds://127.0.0.1:${port}/disk?tls-certificates=${certificates}`,
    () => new Deno.Command("qemu-nbd", { args, stdin: "null", stderr: "null" }).spawn(),
    () => listens(port),
  );
}

/** HTTP with byte ranges, in this process. With `certificates` it is HTTPS. */
export function startHttp(image: string, certificates?: string): { readonly uri: string } & AsyncDisposable {
  const tls = certificates === undefined ? {} : {
    cert: Deno.readTextFileSync(`${certificates}/server-cert.pem`),
    key: Deno.readTextFileSync(`${certificates}/server-key.pem`),
  };
  const server = Deno.serve({ ...tls, hostname: "127.0.0.1", port: 0, onListen: () => {} }, async (request) => {
    const { size } = await Deno.stat(image);
    const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.get("range") ?? "") ?? [];
    const common = { "accept-ranges": "bytes", "content-type": "application/octet-stream" };
    if (first === undefined || request.method === "HEAD") {
      return new Response(null, { headers: { ...common, "content-length": `${size}` } });
    }
    using file = await Deno.open(image);
    const end = Math.min(last === "" ? size : Number(last) + 1, size);
    const bytes = new Uint8Array(end - Number(first));
    await file.seek(Number(first), Deno.SeekMode.Start);
    for (let at = 0; at < bytes.length;) at += await file.read(bytes.subarray(at)) ?? bytes.length;
    const range = `bytes ${first}-${end - 1}/${size}`;
    return new Response(bytes, { status: 206, headers: { ...common, "content-range": range } });
  });
  const scheme = certificates === undefined ? "http" : "https";
  return {
    uri: `${scheme}://127.0.0.1:${server.addr.port}/disk.raw`,
    [Symbol.asyncDispose]: () => server.shutdown(),
  };
}

/** A directory with the certificates of an authority, a server on localhost, and a client, under the names that QEMU uses. */
export async function makeCertificates(folder: string): Promise<string> {
  const directory = `${folder}/pki`;
  Deno.mkdirSync(directory, { mode: 0o700 });
  const path = (name: string): string => `${directory}/${name}.pem`;
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-x509"];
  const usage = (text: string): string[] => ["-addext", "basicConstraints=critical,CA:FALSE", "-addext", text];
  const make = (name: string, ...more: string[]): Promise<void> =>
    run("openssl", ["req", ...key, "-subj", `/CN=${name}`, "-out", path(`${name}-cert`), ...more]);
  await make("ca", "-keyout", path("ca-key"), "-addext", "keyUsage=critical,keyCertSign");
  const signed = ["-CA", path("ca-cert"), "-CAkey", path("ca-key")];
  const names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"];
  const server = usage("extendedKeyUsage=serverAuth");
  await make("server", "-keyout", path("server-key"), ...signed, ...names, ...server);
  await make("client", "-keyout", path("client-key"), ...signed, ...usage("extendedKeyUsage=clientAuth"));
  return directory;
}

/** Runs a command that trusts the authority of {@linkcode makeCertificates} in place of those of the host. */
export function trusting(certificates: string): string[] {
  const directory = `${certificates}/system`;
  Deno.mkdirSync(directory);
  Deno.copyFileSync(`${certificates}/ca-cert.pem`, `${directory}/ca-certificates.crt`);
  return ["unshare", "--mount", "sh", "-ec", 'mount --bind "$0" /etc/ssl/certs; exec "$@"', directory];
}

/** The path of a server's program: unpacked by install.sh, or installed. */
function serverProgram(name: Program): string | undefined {
  return [`${UNPACKED}/${PACKAGES[name]}/usr/sbin/${name}`, `/usr/sbin/${name}`].find((path) => {
    try {
      return Deno.statSync(path).isFile;
    } catch {
      return false;
    }
  });
}

/** Debian's package of QEMU's drivers for stores. */
function missingModules(): string | undefined {
  const { stdout } = new Deno.Command("qemu-img", { args: ["--help"] }).outputSync();
  const drivers = new TextDecoder().decode(stdout);
  return ["ssh", "iscsi", "https"].every((name) => drivers.includes(` ${name}`))
    ? undefined
    : "QEMU's drivers of stores are missing (Debian package qemu-block-extra)";
}

/** A process and all its descendants. */
function familyOf(pid: number): number[] {
  try {
    const children = Deno.readTextFileSync(`/proc/${pid}/task/${pid}/children`).trim().split(" ");
    return [pid, ...children.filter((text) => text !== "").flatMap((child) => familyOf(Number(child)))];
  } catch {
    return [pid];
  }
}

function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

async function listens(port: number): Promise<void> {
  for (const end = performance.now() + PATIENCE_MS;;) {
    try {
      (await Deno.connect({ hostname: "127.0.0.1", port })).close();
      return;
    } catch {
      assert(performance.now() < end, `nobody listens on port ${port}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
}

async function run(program: string, args: readonly string[], env: Record<string, string> = {}): Promise<void> {
  const { success, stderr } = await new Deno.Command(program, { args: [...args], env, stdin: "null" }).output();
  assert(success, `${program} ${args.join(" ")}: ${new TextDecoder().decode(stderr)}`);
}
