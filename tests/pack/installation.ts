/**
 * The npm package as a user has it: packed once, and installed by npm into an empty project outside the checkout. The
 * tests of the package share one installation.
 */

import { assertEquals } from "@std/assert";
import { ROOT } from "../house/source.ts";

/** What a command left behind. */
export interface Outcome {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** TypeScript as users of Node have it, in the version that the package is made with; the types of Node's modules. */
const TOOLS = ["typescript@6.0.3", "@types/node@24.10.1"];

/** A project with the package, and the tarball in a folder beside it. Both go when it is disposed. */
export class Installation implements Disposable {
  /** What `deno task pack` printed. */
  readonly said: string;
  readonly project: string;
  readonly tarballs: string;
  readonly #folder: string;

  private constructor(folder: string, said: string) {
    this.#folder = folder;
    this.project = `${folder}/project`;
    this.tarballs = `${folder}/tarballs`;
    this.said = said;
  }

  /** Packs and installs; a tarball from an earlier run is in the output folder. */
  static async make(): Promise<Installation> {
    const folder = await Deno.makeTempDir({ prefix: "xenblk-installation-" });
    for (const name of ["project", "tarballs"]) await Deno.mkdir(`${folder}/${name}`);
    const { version } = JSON.parse(await Deno.readTextFile(`${ROOT}deno.json`));
    const tarball = `${folder}/tarballs/xenblk-${version}.tgz`;
    await Deno.writeTextFile(tarball, "of an earlier run");
    const { stdout } = await succeeds(ROOT, Deno.execPath(), "task", "--quiet", "pack", `${folder}/tarballs`);
    await Deno.writeTextFile(`${folder}/project/package.json`, `{ "private": true, "type": "module" }`);
    const quiet = ["--no-audit", "--no-fund", "--prefer-offline"];
    await succeeds(`${folder}/project`, "npm", "install", ...quiet, tarball, ...TOOLS);
    return new Installation(folder, stdout);
  }

  /** Where the package is installed. */
  get package(): string {
    return `${this.project}/node_modules/xenblk`;
  }

  /** Runs a command in the project to its end. */
  async run(command: string, ...args: readonly string[]): Promise<Outcome> {
    return await run(this.project, command, args);
  }

  /** The same; throws unless the command succeeds. */
  async succeeds(command: string, ...args: readonly string[]): Promise<Outcome> {
    return await succeeds(this.project, command, ...args);
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.#folder, { recursive: true });
  }
}

async function succeeds(cwd: string, command: string, ...args: readonly string[]): Promise<Outcome> {
  const outcome = await run(cwd, command, args);
  assertEquals(outcome.status, 0, `${command} ${args.join(" ")}: ${outcome.stdout}${outcome.stderr}`);
  return outcome;
}

async function run(cwd: string, command: string, args: readonly string[]): Promise<Outcome> {
  const options: Deno.CommandOptions = { args: [...args], cwd, env: { NO_COLOR: "1" }, stdin: "null" };
  const { code, stdout, stderr } = await new Deno.Command(command, options).output();
  const decoder = new TextDecoder();
  return { status: code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}
