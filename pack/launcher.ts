#!/usr/bin/env node
/**
 * The command of the npm package, for Node: runs the package's cli.js under the Deno that is a dependency of the
 * package, and ends as it ends. Signals go to the command once each: it runs in a session of its own, since a terminal
 * would send ^C to both processes, and the command takes a second signal as the wish to end at once.
 */

import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import process from "node:process";
import { fileURLToPath } from "node:url";

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
/** V8 inlines more into the loop that serves rings, and a start fits into its young generation without a collection. */
const V8_FLAGS = "--v8-flags=--max-inlined-bytecode-size-cumulative=3000,--min-semi-space-size=4";
/** All permissions, as in the checkout; every package from node_modules, and nothing from the network. */
const FLAGS = ["run", "-A", V8_FLAGS, "--no-lock", "--no-remote", "--no-config", "--node-modules-dir=manual"];
const COMMAND = fileURLToPath(new URL("../cli.ts", import.meta.url));

function main(): void {
  const deno = denoPath();
  if (deno === undefined) return;
  const child = spawn(deno, [...FLAGS, COMMAND, ...process.argv.slice(2)], { stdio: "inherit", detached: true });
  const forward = (signal: NodeJS.Signals): void => void child.kill(signal);
  for (const signal of SIGNALS) process.on(signal, forward);
  child.on("error", ({ message }) => fail(`Cannot run ${deno}: ${message}; install the package again`));
  child.on("exit", (status, signal) => end(status, signal, forward));
}

/** The path of Deno's executable, which the package `deno` finds; reports it if there is none. */
function denoPath(): string | undefined {
  try {
    return createRequire(import.meta.url)("deno/install_api.cjs").runInstall();
  } catch (error) {
    const why = String(error instanceof Error ? error.message : error).split("\n", 1)[0];
    fail(
      `Cannot start xenblk: its dependency deno is missing or incomplete (${why}); install the package again, with optional dependencies`,
    );
    return undefined;
  }
}

/** Ends as the command ended: with its status, or by its signal. */
function end(status: number | null, signal: NodeJS.Signals | null, forward: (signal: NodeJS.Signals) => void): void {
  for (const name of SIGNALS) process.off(name, forward);
  if (signal !== null) process.kill(process.pid, signal);
  else process.exitCode = status ?? 1;
}

function fail(line: string): void {
  process.stderr.write(`xenblk: ${line}\n`);
  process.exitCode = 1;
}

main();
