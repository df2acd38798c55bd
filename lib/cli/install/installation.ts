/**
 * An installation on a host or in an image's root: what was installed (the manifest), what a plan changes, and its
 * removal. A file counts as ours only if the manifest names it and it is as we wrote it.
 */

import { createHash } from "node:crypto";
import { errorText, XenblkError } from "../../errors.ts";
import type { PlannedFile } from "./plan.ts";
import { dirname } from "./paths.ts";
import { Inside } from "./inside.ts";

/** Where the manifest is, as the installed system sees it. */
const MANIFEST = "/var/lib/xenblk/installed.json";

/** What happens to a file. `kept`: it is not as we wrote it. */
export type Verdict = "install" | "update" | "unchanged" | "remove" | "kept";

/** One file and what happens to it. */
export interface Step {
  readonly verdict: Verdict;
  readonly path: string;
}

interface Manifest {
  readonly format: 1;
  /** SHA-256 of each file, by path. */
  readonly files: Readonly<Record<string, string>>;
  /** Folders that were made, the outer ones first. */
  readonly folders: readonly string[];
}

const NOTHING: Manifest = { format: 1, files: {}, folders: [] };

/** The installation below `root`, which is empty or a folder without a slash at its end. */
export class Installation {
  readonly #root: string;
  readonly #inside: Inside | undefined;
  readonly #manifest: Manifest;

  /** Reads the manifest. Throws {@linkcode XenblkError} if it cannot be understood, or if there is no such root. */
  constructor(root: string) {
    this.#root = root;
    this.#inside = root === "" ? undefined : new Inside(root);
    this.#manifest = this.#readManifest();
  }

  /** Nothing is installed. */
  get isEmpty(): boolean {
    return Object.keys(this.#manifest.files).length === 0;
  }

  /**
   * What installing these files will do; files of an earlier installation that are no longer needed are removed. Throws
   * {@linkcode XenblkError} if it would overwrite a file that is not ours, unless `force`.
   */
  stepsTo(planned: readonly PlannedFile[], force: boolean): Step[] {
    const foreign: string[] = [];
    const steps = planned.map(({ path, text }): Step => {
      const present = this.#digestOf(path);
      if (present === undefined) return { verdict: "install", path };
      if (present === digest(text)) return { verdict: "unchanged", path };
      if (present !== this.#manifest.files[path]) foreign.push(path);
      return { verdict: "update", path };
    });
    if (foreign.length > 0 && !force) {
      throw new XenblkError(`Cannot overwrite ${foreign.join(", ")}: xenblk install has not written what is there`, {
        remedy: "move it away, or use --force",
      });
    }
    const needed = new Set(planned.map(({ path }) => path));
    return [...steps, ...this.removal().filter(({ path }) => !needed.has(path))];
  }

  /** What removing everything will do. A file that is gone already has no step. */
  removal(): Step[] {
    return Object.entries(this.#manifest.files).flatMap(([path, ours]): Step[] => {
      const present = this.#digestOf(path);
      return present === undefined ? [] : [{ verdict: present === ours ? "remove" : "kept", path }];
    });
  }

  /**
   * Carries out {@linkcode stepsTo}. The manifest is written first, so that whatever an interruption leaves is known.
   * A file that was there already, just as planned, is not ours, unless the manifest has it.
   */
  install(planned: readonly PlannedFile[], steps: readonly Step[]): void {
    const verdicts = new Map(steps.map(({ path, verdict }) => [path, verdict]));
    const ours = planned.filter(({ path }) => verdicts.get(path) !== "unchanged" || path in this.#manifest.files);
    const files = Object.fromEntries(ours.map(({ path, text }) => [path, digest(text)]));
    const folders = [...this.#manifest.folders];
    for (const path of [MANIFEST, ...ours.map(({ path }) => path)]) this.#addMissingFolders(dirname(path), folders);
    const before = { ...this.#manifest.files, ...files };
    this.#write({ path: MANIFEST, mode: 0o644, text: manifestText({ format: 1, files: before, folders }) });
    for (const file of ours) if (verdicts.get(file.path) !== "unchanged") this.#write(file);
    for (const { path, verdict } of steps) if (verdict === "remove") this.#remove(path);
    this.#write({ path: MANIFEST, mode: 0o644, text: manifestText({ format: 1, files, folders }) });
  }

  /** Carries out {@linkcode removal}; removes the folders that were made, if they are empty, and the manifest. */
  uninstall(steps: readonly Step[]): void {
    for (const { path, verdict } of steps) if (verdict === "remove") this.#remove(path);
    this.#remove(MANIFEST);
    for (const folder of this.#manifest.folders.toReversed()) {
      try {
        this.#inside?.check(folder);
        Deno.removeSync(this.#root + folder);
      } catch { /* others have put something into it, or removed it */ }
    }
  }

  #readManifest(): Manifest {
    const path = this.#root + MANIFEST;
    let text: string;
    try {
      text = Deno.readTextFileSync(path);
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return NOTHING;
      throw cannot("read", path, error);
    }
    try {
      const found: Partial<Manifest> = JSON.parse(text);
      if (found.format === 1 && found.files !== undefined && found.folders !== undefined) {
        const { files, folders } = found;
        // It names what is removed, so a path that leads elsewhere is not ours.
        if ([...Object.keys(files), ...folders].every(isPlain)) return { format: 1, files, folders };
      }
    } catch { /* as if it were of another format */ }
    throw new XenblkError(`Cannot understand ${path}: this version of xenblk has not written it`, {
      remedy: "use the version that installed, or remove it and the files that it names by hand",
    });
  }

  /** Undefined if there is no such file. */
  #digestOf(path: string): string | undefined {
    this.#inside?.check(path);
    try {
      return digest(Deno.readFileSync(this.#root + path));
    } catch (error) {
      if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) return undefined;
      throw cannot("read", this.#root + path, error);
    }
  }

  #addMissingFolders(folder: string, folders: string[]): void {
    if (folder === "" || folders.includes(folder) || this.#exists(folder)) return;
    this.#addMissingFolders(dirname(folder), folders);
    folders.push(folder);
  }

  #exists(path: string): boolean {
    this.#inside?.check(path);
    try {
      Deno.statSync(this.#root + path);
      return true;
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return false;
      throw cannot("look at", this.#root + path, error);
    }
  }

  /** As a whole or not at all. */
  #write({ path, text, mode }: PlannedFile): void {
    this.#inside?.check(path);
    const target = this.#root + path;
    const partial = `${target}.partial`;
    try {
      Deno.mkdirSync(dirname(target), { recursive: true, mode: 0o755 });
      removeIfThere(partial); // of an interrupted call, or a link that leads elsewhere
      Deno.writeTextFileSync(partial, text, { mode, createNew: true });
      Deno.chmodSync(partial, mode); // whatever the umask
      Deno.renameSync(partial, target);
    } catch (error) {
      try {
        removeIfThere(partial);
      } catch { /* the first error says more */ }
      throw cannot("write", target, error);
    }
  }

  #remove(path: string): void {
    this.#inside?.check(path);
    try {
      removeIfThere(this.#root + path);
    } catch (error) {
      throw cannot("remove", this.#root + path, error);
    }
  }
}

function removeIfThere(path: string): void {
  try {
    Deno.removeSync(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/** An absolute path that leads to what it says. */
function isPlain(path: string): boolean {
  return /^(\/[^/]+)+$/.test(path) && !path.split("/").some((name) => name === "." || name === "..");
}

function digest(content: string | Uint8Array): string {
  return createHash("sha256").update(content).digest("hex");
}

function manifestText(manifest: Manifest): string {
  return `${JSON.stringify(manifest, null, 2)}\n`;
}

function cannot(act: string, path: string, error: unknown): XenblkError {
  const isDenied = error instanceof Deno.errors.PermissionDenied;
  return new XenblkError(`Cannot ${act} ${path}: ${errorText(error)}`, {
    ...(isDenied ? { remedy: "run this as root" } : {}),
    cause: error,
  });
}
