/**
 * `xenblk install`: makes a service of this copy of xenblk, on hosts where no package does: units, launcher, hotplug
 * script, udev rule, group and completion.
 */

import { XenblkError } from "../../errors.ts";
import { ownEnvironment } from "../../systemd/environment.ts";
import { defaulting, flag, path } from "../options.ts";
import { defineVerb } from "../verb.ts";
import { Installation } from "./installation.ts";
import { absolute, PLACE_OPTIONS } from "./paths.ts";
import { type Copy, planFiles, runningCopy } from "./plan.ts";

/** What dpkg has of the Debian package. */
const DEBIAN_PACKAGE = "/var/lib/dpkg/info/xenblk.list";

const PREFIX = {
  ...path("DIRECTORY", "Put the command into bin, and completion into share, of this folder"),
  allowed: "an absolute path of letters, digits and any of _ @ + = : , . -", // what needs no quotes in a unit
  parse: (text: string): string | undefined => /^[\w@+=:,./-]+$/.test(text) ? absolute(text) : undefined,
};

/** The verb. */
export const install = defineVerb({
  name: "install",
  summary: "Install this copy of xenblk as a service of the host",
  description:
    "Writes the systemd units, the hotplug script for xl, the udev rule, the group's file, completion, and a " +
    "command that runs this copy, which must stay where it is. It starts nothing, and overwrites no file that it has " +
    "not written. Install again after an update: files that changed are replaced.",
  operands: [],
  options: {
    "prefix": defaulting(PREFIX, "/usr/local"),
    ...PLACE_OPTIONS,
    "force": flag("Overwrite files that xenblk install has not written", "f"),
  },
  permissions: "--allow-read --allow-write --allow-env.",
  examples: ["xenblk install --dry-run", "xenblk install", "xenblk install --prefix /opt/xenblk --root /mnt/image"],
  // deno-lint-ignore require-await -- a verb is asynchronous
  async run({ output, inform }, { prefix, root = "", force, "dry-run": dryRun }): Promise<number> {
    if (!force) refuseBesidePackage(root);
    const copy = runningCopy(ownEnvironment);
    const planned = planFiles(within(root, copy), prefix);
    const installation = new Installation(root);
    const steps = installation.stepsTo(planned, force);
    if (!dryRun) installation.install(planned, steps);
    for (const { verdict, path } of steps) output.data(`${verdict.padEnd(9)} ${root}${path}\n`);
    if (copy.deno.includes("/_npx/")) inform(`the command needs ${copy.deno}, ${NPX}`);
    if (dryRun) inform("nothing was done (--dry-run)");
    else if (root === "" && steps.some(({ verdict }) => verdict !== "unchanged")) inform(NEXT);
    return 0;
  },
});

const NPX = "which npx may remove some day: to be safe, install Deno, and install xenblk again with it";

const NEXT = `to start the service:
  systemctl daemon-reload
  systemd-sysusers xenblk.conf && systemd-tmpfiles --create xenblk.conf
  udevadm control --reload && udevadm trigger --subsystem-match=misc
  systemctl enable --now xenblk    # it runs already: systemctl restart xenblk`;

/** The paths as the installed system will see them. */
function within(root: string, copy: Copy): Copy {
  const seen = (path: string): string => root !== "" && path.startsWith(`${root}/`) ? path.slice(root.length) : path;
  return { ...copy, root: seen(copy.root), deno: seen(copy.deno), denoDirectory: seen(copy.denoDirectory) };
}

/** The units here would hide those of the package. */
function refuseBesidePackage(root: string): void {
  try {
    Deno.statSync(root + DEBIAN_PACKAGE);
  } catch {
    return;
  }
  throw new XenblkError("Cannot install: the Debian package xenblk is installed, and brings all of this", {
    remedy: "use the package, remove it first, or use --force",
  });
}
