/**
 * How a storage daemon is started: in a session and, where systemd runs, a scope of its own, so that the end of this
 * process or of its unit does not end it; and with as little as it can work with. As root it gets a mount namespace and a
 * root directory that hold its own disks' files and QEMU's program, no capability but CAP_DAC_OVERRIDE (images belong to
 * other users), and no new privileges; with a user of its own it gets no capability at all. All of that is done by
 * util-linux, coreutils, findutils and sed, which every host has. Files are added to a running daemon's root, or taken
 * out of it, in its namespace; the host's mounts stay as they are, and the kernel removes the namespace with the daemon.
 */

import { lookWithin } from "../../path_lookup.ts";
import { runWithin } from "./command.ts";
import type { DaemonProgram } from "./program.ts";
import type { ProcessIdentity } from "./process.ts";
import type { RunDirectory } from "./record.ts";
import type { DaemonUser } from "./user.ts";

/** How long a probe may take. One that is too slow leaves daemons with less confinement, on a host that is just busy. */
const PROBE_MS = 30_000;
/** How long a file's storage may take to let the file be put into a daemon's root. */
const PLACE_MS = 10_000;

/** What systemd's own sd_booted(3) looks at. */
const SYSTEMD = "/run/systemd/system";
/** Units of guests: at the host's shutdown they stop before their disks. */
const GUESTS = ["xendomains.service", "libvirt-guests.service"];

/**
 * Arguments: the root, then `ro|rw PATH` for each file that is there from the start, `--`, and the command. It runs few
 * programs, because a guest waits while a dead daemon's successor starts: one mount(8) mounts all files, from a table.
 */
const ENTER_ROOT = `set -eu
umask 022
root=$1; shift
mount -t tmpfs -o mode=755,size=4m,nosuid,noexec xenblk "$root"
links=
for link in /bin /sbin /lib /lib32 /lib64; do
  if [ -L "$link" ]; then links="$links $link"; elif [ -d "$link" ]; then set -- ro "$link" "$@"; fi
done
[ -z "$links" ] || cp -P $links "$root/"
folders() {
  while [ "$1" != -- ]; do
    if [ -d "$2" ]; then printf '%s\\0' "$root$2"; elif [ -e "$2" ]; then printf '%s\\0' "$root\${2%/*}"; fi
    shift 2
  done
}
table() {
  while [ "$1" != -- ]; do
    if [ -e "$2" ]; then
      [ -e "$root$2" ] || : > "$root$2"
      printf '%s\\t%s\\tnone\\tbind,%s\\n' "$2" "$root$2" "$1"
    fi
    shift 2
  done
}
folders "$@" | xargs -0 mkdir -p
table "$@" | sed 's/\\\\/\\\\134/g; s/ /\\\\040/g' > "$root/table"
mount -a -T "$root/table"
rm "$root/table"
mount -o remount,bind,ro,nosuid,noexec "$root"
while [ "$1" != -- ]; do shift 2; done
shift
exec chroot "$root" "$@"
`;

/**
 * Makes places for files in the root, which is read-only for the daemon: it could put links to the host there. So it is
 * made writable in another mount namespace, of this script alone. What is not there is left to QEMU to report.
 */
const MAKE_PLACES = `set -eu
umask 022
root=$1; shift
mount -o remount,bind,rw,nosuid,noexec "$root"
while [ $# -gt 0 ]; do
  if [ -d "$2" ]; then mkdir -p "$root$2"; elif [ -e "$2" ]; then
    mkdir -p "$root\${2%/*}"; [ -e "$root$2" ] || : > "$root$2"
  fi
  shift 2
done
`;

/**
 * Arguments as above, without a command. What is mounted there is of an earlier file of that name. In the daemon's namespace,
 * which the root's own `usr` tells from all others.
 */
const ADD_FILES = `set -eu
root=$1; shift
[ -d "$root/usr" ] || { echo "its root is gone" >&2; exit 1; }
unshare --mount sh -c '${MAKE_PLACES}' xenblk "$root" "$@"
while [ $# -gt 0 ]; do
  while mountpoint -q "$root$2"; do umount --lazy "$root$2"; done
  [ ! -e "$2" ] || mount --bind -o "$1" "$2" "$root$2"
  shift 2
done
`;

/** Arguments: the root, then paths. What the daemon has open of them stays open. */
const TAKE_FILES = `set -eu
root=$1; shift
[ -d "$root/usr" ] || exit 0
for path; do
  while mountpoint -q "$root$path"; do umount --lazy "$root$path"; done
done
`;

/** What QEMU needs beside its disks: its program and libraries, names of hosts, certificates. All is readable to all. */
const SYSTEM_FILES = [
  "/usr",
  ...[
    "ld.so.cache",
    "host.conf",
    "hosts",
    "gai.conf",
    "localtime",
    "nsswitch.conf",
    "passwd",
    "resolv.conf",
    "services",
  ]
    .map((name) => `/etc/${name}`),
  "/etc/ssl/certs",
];
const SYSTEM_DEVICES = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"];

/** What a daemon may open. */
export interface AllowedFile {
  /** Absolute. */
  readonly path: string;
  readonly writable: boolean;
}

/** What this host allows, as {@linkcode probeConfinement} found it. */
export interface Confinement {
  /** systemd runs, and gives a daemon a scope of its own. */
  readonly scope: boolean;
  /** A daemon gets a root of its own. */
  readonly rooted: boolean;
  /** This process is root. */
  readonly privileged: boolean;
  /** As whom daemons run. Absent: as this process. */
  readonly user?: DaemonUser;
  /** What is missing, and why: for the log. */
  readonly lacks: readonly string[];
}

/** Finds out, by trying, what this host allows. Never rejects. `folder` is an empty directory. */
export async function probeConfinement(
  program: DaemonProgram,
  folder: string,
  user?: DaemonUser,
): Promise<Confinement> {
  const lacks: string[] = [];
  const privileged = Deno.uid() === 0;
  let scope = false;
  if (privileged && await isThere(SYSTEMD)) {
    const { success, reason } = await runWithin("systemd-run", [...scopeArguments("probe"), "true"], PROBE_MS);
    scope = success;
    if (!success) lacks.push(`no scope of its own, so it ends with this service: systemd-run: ${reason}`);
  }
  const [command, ...args] = rootedCommand(program, folder, [], [program.path, "--version"], user);
  const { success, reason } = privileged
    ? await runWithin(command!, args, PROBE_MS)
    : { success: false, reason: "only root can make it" };
  if (!success) lacks.push(`no root directory of its own, so it can open every file that this user can: ${reason}`);
  return { scope, rooted: success, privileged, lacks, ...(user === undefined ? {} : { user }) };
}

/**
 * The command that starts the daemon, with its standard error appended to the run directory's file. The files of disks
 * are placed later, so that a disk that does not answer does not keep the daemon from starting.
 */
export function startCommand(
  program: DaemonProgram,
  { scope, rooted, privileged, user }: Confinement,
  directory: RunDirectory,
): string[] {
  const daemon = [program.path, ...daemonArguments(directory)];
  const confined = rooted
    ? rootedCommand(program, directory.root, [{ path: directory.sockets, writable: true }], daemon, user)
    : plainCommand(privileged, daemon, user);
  const scoped = scope ? ["systemd-run", ...scopeArguments(directory.name), ...confined] : confined;
  return ["sh", "-c", 'exec 2>> "$0"; exec "$@"', directory.errors, ...scoped];
}

function daemonArguments({ monitor, pidFile }: RunDirectory): string[] {
  // In QEMU's options a comma of a value is doubled.
  const path = monitor.replaceAll(",", ",,");
  const chardev = `socket,id=qmp,path=${path},server=on,wait=off`;
  return ["--chardev", chardev, "--monitor", "chardev=qmp", "--pidfile", pidFile];
}

/** Puts files into a running daemon's root. The reason why they could not be; undefined: they are there. */
export async function placeFiles(
  process: ProcessIdentity,
  root: string,
  files: readonly AllowedFile[],
  timeoutMs = PLACE_MS,
): Promise<string | undefined> {
  return await inNamespace(process, ADD_FILES, root, files.flatMap(placed), timeoutMs);
}

/** Takes files out of a running daemon's root. The reason why they could not be. */
export async function takeFiles(
  process: ProcessIdentity,
  root: string,
  paths: readonly string[],
): Promise<string | undefined> {
  return await inNamespace(process, TAKE_FILES, root, paths, PLACE_MS);
}

async function inNamespace(
  { pid }: ProcessIdentity,
  script: string,
  root: string,
  args: readonly string[],
  timeoutMs: number,
): Promise<string | undefined> {
  if (args.length === 0) return undefined;
  const command = ["--target", `${pid}`, "--mount", "--", "sh", "-c", script, "xenblk", root, ...args];
  const { success, reason } = await runWithin("nsenter", command, timeoutMs);
  return success ? undefined : reason;
}

function rootedCommand(
  program: DaemonProgram,
  root: string,
  files: readonly AllowedFile[],
  daemon: readonly string[],
  user?: DaemonUser,
): string[] {
  const system = [...SYSTEM_FILES, ...programFolder(program.path)].map((path) => ({ path, writable: false }));
  const devices = SYSTEM_DEVICES.map((path) => ({ path, writable: true }));
  const all = [...system, ...devices, ...files].flatMap(placed);
  const enter = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", ENTER_ROOT, "xenblk", root, ...all, "--"];
  return [...enter, ...plainCommand(true, daemon, user)];
}

/** Without a root of its own. */
function plainCommand(privileged: boolean, daemon: readonly string[], user?: DaemonUser): string[] {
  const keep = user === undefined ? "-all,+dac_override" : "-all";
  const drop = privileged ? [`--inh-caps=-all`, `--ambient-caps=-all`, `--bounding-set=${keep}`] : [];
  const become = user === undefined ? [] : [`--reuid=${user.uid}`, `--regid=${user.gid}`, "--init-groups"];
  return ["setpriv", "--no-new-privs", ...become, ...drop, ...daemon];
}

/** Where a QEMU of another prefix lies. */
function programFolder(path: string): string[] {
  return path.startsWith("/usr/") ? [] : [path.slice(0, path.lastIndexOf("/"))];
}

function placed({ path, writable }: AllowedFile): [string, string] {
  return [writable ? "rw" : "ro", path];
}

function scopeArguments(name: string): string[] {
  const suffix = crypto.getRandomValues(new Uint32Array(1))[0]!.toString(16);
  return [
    "--scope",
    "--quiet",
    "--collect",
    `--unit=xenblk-daemon-${name}-${suffix}`,
    "--description=Storage daemon of xenblk",
    ...GUESTS.map((unit) => `--property=Before=${unit}`),
    "--",
  ];
}

async function isThere(path: string): Promise<boolean> {
  try {
    await lookWithin(path, () => Deno.stat(path));
    return true;
  } catch {
    return false;
  }
}
