/**
 * The program that the bench measures: the code and the command line of the Debian package, in a folder of its own. The
 * checkout's sources run slower: V8 looks up what one module imports from another each time, and the packages join modules.
 */

import { XenblkError } from "../lib/errors.ts";
import { readProject } from "../pack/manifest.ts";
import { packageFiles } from "../pack/package.ts";

const ROOT = new URL("../", import.meta.url).pathname;

/** Disposing it removes its folder. */
export interface PackedProgram extends AsyncDisposable {
  readonly folder: string;
  /** The command with its arguments; a verb follows. */
  readonly command: readonly string[];
}

/** Writes the program into a temporary folder, with a copy of this Deno. */
export async function packProgram(): Promise<PackedProgram> {
  const folder = await Deno.makeTempDir({ prefix: "xenblk-bench-program-" });
  await using undo = new AsyncDisposableStack();
  undo.defer(() => Deno.remove(folder, { recursive: true }));
  const { files } = await packageFiles(ROOT, readProject(ROOT));
  for (const [path, text] of files) {
    if (path.endsWith(".d.ts")) continue;
    const place = `${folder}/node_modules/xenblk/${path}`;
    await Deno.mkdir(place.replace(/[^/]+$/, ""), { recursive: true });
    await Deno.writeTextFile(place, text);
  }
  // A copy: pages of a program that runs, as this one does, stay in the page cache.
  await Deno.copyFile(Deno.execPath(), `${folder}/deno`);
  const command = ["env", `DENO_DIR=${folder}/cache`, "DENO_NO_UPDATE_CHECK=1", ...await launched(folder)];
  const owned = undo.move();
  return { folder, command, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** The command of that package's launcher. */
async function launched(folder: string): Promise<string[]> {
  const launcher = await Deno.readTextFile(`${ROOT}pack/deb/debian/launcher.sh`);
  const command = /^exec ([^]*) "\$@"$/m.exec(launcher)?.[1];
  if (command === undefined) throw new XenblkError("Cannot find the command in pack/deb/debian/launcher.sh");
  return command.replaceAll("\\\n", " ").replaceAll("@PROGRAM@", folder).split(/\s+/);
}
