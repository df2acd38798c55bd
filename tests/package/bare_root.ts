/**
 * A bare Debian in which the package is tried: a base from the mirror that apt uses, made once and kept, and for each
 * test a layer over it that is thrown away. Commands run there in namespaces of their own, without a network if wished.
 */

import { ROOT } from "../house/source.ts";

/** What a command left behind. */
export interface Outcome {
  readonly status: number;
  /** Both streams. */
  readonly text: string;
}

/** Mounts what a system has, and runs the command in the root. Gone with the namespace, when the command has ended. */
const ENTER = `
set -e
layer=$1 base=$2
shift 2
mount -t overlay overlay -o "lowerdir=$base,upperdir=$layer/upper,workdir=$layer/work" "$layer/root"
mount -t proc proc "$layer/root/proc"
mount --rbind /dev "$layer/root/dev"
mount -t tmpfs tmpfs "$layer/root/tmp"
mkdir -p "$layer/run"
mount --bind "$layer/run" "$layer/root/run"
exec chroot "$layer/root" "$@"`;
const ENVIRONMENT = {
  DEBIAN_FRONTEND: "noninteractive",
  HOME: "/root",
  LC_ALL: "C.UTF-8",
  NO_COLOR: "1",
  PATH: "/usr/sbin:/usr/bin:/sbin:/bin",
};

/** The folder that the scenarios with real guests use too. */
const CACHE = Deno.env.get("XENBLK_E2E_CACHE") ?? "/tmp/xenblk-e2e";

/** Makes the base of a suite if there is none, and returns its path. */
export async function makeBase(suite: string): Promise<string> {
  const base = `${CACHE}/bare-${suite}`;
  await succeeds("bash", [`${ROOT}tests/package/bare_root.sh`, suite, base]);
  return base;
}

/** A root. Disposing it removes what was done in it. */
export class BareRoot implements Disposable {
  readonly suite: string;
  readonly #base: string;
  readonly #layer: string;

  private constructor(suite: string, base: string, layer: string) {
    this.suite = suite;
    this.#base = base;
    this.#layer = layer;
  }

  /** A layer over the suite's base. */
  static async make(suite: string): Promise<BareRoot> {
    const base = await makeBase(suite);
    const layer = await Deno.makeTempDir({ prefix: `xenblk-${suite}-`, dir: CACHE });
    for (const name of ["upper", "work", "root"]) await Deno.mkdir(`${layer}/${name}`);
    // For the names of the mirror's hosts.
    await Deno.mkdir(`${layer}/upper/etc`);
    await Deno.copyFile("/etc/resolv.conf", `${layer}/upper/etc/resolv.conf`);
    return new BareRoot(suite, base, layer);
  }

  /** Puts a file of this machine into the root's /srv. */
  async add(path: string): Promise<void> {
    await Deno.mkdir(`${this.#layer}/upper/srv`, { recursive: true });
    await Deno.copyFile(path, `${this.#layer}/upper/srv/${path.slice(path.lastIndexOf("/") + 1)}`);
  }

  /** Runs a command there, by default without a network. */
  async run(command: readonly string[], options: { readonly network?: boolean } = {}): Promise<Outcome> {
    const namespaces = ["--mount", "--pid", "--fork", "--uts", "--ipc", ...(options.network === true ? [] : ["--net"])];
    const { code, stdout, stderr } = await new Deno.Command("unshare", {
      args: [...namespaces, "sh", "-c", ENTER, "sh", this.#layer, this.#base, ...command],
      clearEnv: true,
      env: ENVIRONMENT,
      stdin: "null",
    }).output();
    const decoder = new TextDecoder();
    return { status: code, text: decoder.decode(stdout) + decoder.decode(stderr) };
  }

  /** The same; throws with its output unless it succeeds. */
  async succeeds(command: readonly string[], options: { readonly network?: boolean } = {}): Promise<string> {
    const { status, text } = await this.run(command, options);
    if (status !== 0) throw new Error(`${this.suite}: ${command.join(" ")} ended with ${status}:\n${text}`);
    return text;
  }

  /** All paths in the root, sorted, besides those of /proc, /dev and /tmp, and what is in /run. */
  async paths(): Promise<string[]> {
    const prune = ["/proc", "/dev", "/tmp"].flatMap((path) => ["-path", path, "-prune", "-o"]);
    const text = await this.succeeds(["find", "/", ...prune, "-print"]);
    return text.trimEnd().split("\n").sort();
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.#layer, { recursive: true });
  }
}

async function succeeds(program: string, args: readonly string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command(program, { args: [...args], stdin: "null", stdout: "null" })
    .output();
  if (!success) throw new Error(`${program} ${args.join(" ")} failed:\n${new TextDecoder().decode(stderr)}`);
}
