/**
 * Runs qemu-img, QEMU's tool for disk images: finds the program, ends it on a signal or after a time limit, reads its
 * progress, and turns what it prints on failure into the error that a person sees.
 */

import { errorText, XenblkError } from "../../errors.ts";
import { endsWithin } from "../../within.ts";

/** Names another qemu-img than the one on PATH. */
export const QEMU_IMG_VARIABLE = "XENBLK_QEMU_IMG";

/** The program: a path, or a name to be found on PATH. */
function qemuImgProgram(): string {
  return Deno.env.get(QEMU_IMG_VARIABLE) ?? "qemu-img";
}

/** How long a killed qemu-img may take to end: first after SIGTERM, then after SIGKILL. */
const TERM_MS = 2_000;
const KILL_MS = 1_000;
/** Most characters of stderr that are kept; a check of a badly damaged image prints a line for every cluster. */
const MOST_STDERR = 64 * 1024;

/** Images that a qemu-img which could not be killed still waits for. Another one would wait like it. */
const STUCK = new Set<string>();

/** How qemu-img is run. */
export interface QemuImgOptions {
  /** The program. Absent: the one that the environment names. */
  readonly program?: string;
  /** The beginning of the sentence if it cannot be run: `Cannot open image a.qcow2`. */
  readonly what?: string;
  /** What it opens: refused while a qemu-img that was killed still waits for the same. */
  readonly image?: string;
  /** Most characters of its output; one that prints more is cut off, and is given up. Absent: no limit. */
  readonly mostOutput?: number;
  /** Aborting it ends qemu-img. */
  readonly signal?: AbortSignal;
  /** How long it may take, in milliseconds. Absent: as long as it needs. */
  readonly timeoutMs?: number;
  /** Gets the progress that option `-p` prints, from 0 to 100. */
  readonly onPercent?: (percent: number) => void;
}

/** How a run of qemu-img ended. */
export interface QemuImgOutcome {
  /** Its exit status; 128 and the signal's number if a signal ended it. */
  readonly status: number;
  readonly stdout: string;
  /** At most the first 64 KiB. */
  readonly stderr: string;
}

/**
 * Runs `qemu-img <args>` to its end, whatever its exit status. Rejects with {@linkcode XenblkError} if there is no
 * qemu-img or the time limit passes, and with the signal's reason if it aborts; qemu-img has then ended, unless the
 * kernel keeps it waiting for its storage.
 */
export async function runQemuImg(args: readonly string[], options: QemuImgOptions = {}): Promise<QemuImgOutcome> {
  const { what = `Cannot run qemu-img ${args[0]}`, image, mostOutput = Infinity, timeoutMs } = options;
  options.signal?.throwIfAborted();
  if (image !== undefined && STUCK.has(image)) throw silent(what, "an earlier qemu-img still waits for it");
  const child = spawn(options.program ?? qemuImgProgram(), args, what);
  const { promise: given, reject: giveUp } = Promise.withResolvers<never>();
  const tooLong = (): void => giveUp(new XenblkError(`${what}: qemu-img printed over ${mostOutput} characters`));
  const output = Promise.all([
    child.status,
    options.onPercent === undefined
      ? textOf(child.stdout, mostOutput, tooLong)
      : percentsOf(child.stdout, options.onPercent),
    textOf(child.stderr, MOST_STDERR),
  ]);
  output.catch(() => {}); // it is awaited, or the run was given up
  const abort = (): void => giveUp(options.signal?.reason);
  options.signal?.addEventListener("abort", abort, { once: true });
  const late = (): void => giveUp(silent(what, `qemu-img was ended after ${timeoutMs! / 1000} s`));
  const timer = timeoutMs === undefined ? undefined : setTimeout(late, timeoutMs);
  try {
    const [{ code }, stdout, stderr] = await Promise.race([output, given]);
    return { status: code, stdout, stderr };
  } catch (error) {
    await end(child, output, image);
    throw error;
  } finally {
    clearTimeout(timer);
    options.signal?.removeEventListener("abort", abort);
  }
}

type Child = Deno.ChildProcess;

function spawn(program: string, args: readonly string[], what: string): Child {
  try {
    return new Deno.Command(program, {
      args: [...args],
      env: { LC_ALL: "C" },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      // In a session of its own: INT at the terminal is for this process, which ends qemu-img.
      detached: true,
    }).spawn();
  } catch (error) {
    throw cannotRun(program, what, error);
  }
}

function cannotRun(program: string, what: string, error: unknown): XenblkError {
  const known = [
    [
      Deno.errors.NotFound,
      `there is no program ${program}`,
      `install it (Debian: apt-get install qemu-utils), or name it in ${QEMU_IMG_VARIABLE}`,
    ],
    [
      Deno.errors.PermissionDenied,
      `${program} cannot be executed: permission denied`,
      `make it executable for this user, or name another in ${QEMU_IMG_VARIABLE}`,
    ],
    [
      Deno.errors.NotCapable,
      `${program} cannot be executed: Deno was started without the permission`,
      `run deno with --allow-run=${program}`,
    ],
  ] as const;
  const found = known.find(([type]) => error instanceof type);
  if (found === undefined) return new XenblkError(`${what}: ${program}: ${errorText(error)}`, { cause: error });
  return new XenblkError(`${what}: ${found[1]}`, { cause: error, remedy: found[2] });
}

function silent(what: string, why: string): XenblkError {
  return new XenblkError(`${what}: its storage does not answer (${why})`, {
    remedy: "check the device or file server that the image is on",
  });
}

/** Ends qemu-img. One that waits for its storage in the kernel is left alone: it ends when its storage answers. */
async function end(child: Child, output: Promise<unknown>, image: string | undefined): Promise<void> {
  const ended = output.catch(() => {});
  for (const [signal, ms] of [["SIGTERM", TERM_MS], ["SIGKILL", KILL_MS]] as const) {
    try {
      child.kill(signal);
    } catch {
      return; // it has ended
    }
    if (await endsWithin(ended, ms)) return;
  }
  child.unref();
  if (image === undefined) return;
  STUCK.add(image);
  child.status.then(() => STUCK.delete(image));
}

/** The text of a stream, at most so many characters of it. The rest is read and dropped; `tooLong` learns of it. */
async function textOf(
  stream: ReadableStream<Uint8Array>,
  mostCharacters: number,
  tooLong?: () => void,
): Promise<string> {
  let text = "";
  for await (const part of stream.pipeThrough(new TextDecoderStream())) {
    if (text.length < mostCharacters) text += part;
    else tooLong?.();
  }
  return text.slice(0, mostCharacters);
}

/** Reads `    (12.34/100%)\r`, over and over. Returns the text that is no progress. */
async function percentsOf(stream: ReadableStream<Uint8Array>, onPercent: (percent: number) => void): Promise<string> {
  let rest = "";
  for await (const part of stream.pipeThrough(new TextDecoderStream())) {
    rest = (rest + part).replace(/\s*\((\d+(?:\.\d+)?)\/100%\)\r?/g, (_all, percent: string) => {
      onPercent(Number(percent));
      return "";
    });
  }
  return rest.trim();
}

/** What QEMU says of a server that it cannot reach. */
export const SERVER_GONE: RegExp = /Connection refused|timed out|No route|Name or service|[Ff]ailed to connect|resolve/;

/** What qemu-img says about common failures, each with what to do. */
const REMEDIES: readonly (readonly [RegExp, string])[] = [
  [/No space left on device/, "free space on its file system, or name a file on another one"],
  [/Disk quota exceeded/, "raise the quota, or free space"],
  [/Permission denied/, "run it as a user who has the right"],
  [/Read-only file system/, "name a file on another file system"],
  [/Cannot grow device files/, "name a device that is as large as the image"],
  [/No such file or directory/, "check the path"],
  [/is not in \S+ format|not in QED format|not supported by|Image format/, "name its real format: FORMAT:PATH"],
  [
    /key-secret' is required/,
    "name the file with its passphrase: format=FORMAT,passphrase-file=FILE,target=PATH",
  ],
  [/Invalid password/, "name the file with the right passphrase: all that it holds counts, a line's end included"],
  [/Can't find snapshot/, "name one that `xenblk image info` lists"],
  [SERVER_GONE, "check the server that has it"],
  [/need to rebuild refcount structures/, "repair a copy of it with --repair all, which rebuilds them"],
  [/image is corrupt|is marked corrupt|Image is corrupt/, "repair a copy of it with `xenblk image check --repair all`"],
];

/** Most attempts to create an encrypted image. */
const MOST_ATTEMPTS = 20;

/**
 * The same for `create` and `convert`, which try again where QEMU could not measure how fast this machine derives keys:
 * it reads 0 ms from a clock that counts ticks, which is chance.
 */
export async function makeByQemuImg(args: readonly string[], options: QemuImgOptions = {}): Promise<QemuImgOutcome> {
  for (let attempt = 1;; attempt++) {
    const outcome = await runQemuImg(args, options);
    if (attempt === MOST_ATTEMPTS || !outcome.stderr.includes("Unable to get accurate CPU usage")) return outcome;
  }
}

/** Another process holds the image's lock. */
export function isLocked({ stderr }: Pick<QemuImgOutcome, "stderr">): boolean {
  return /Failed to (get|lock)|Is another process using the image/.test(stderr);
}

/** `what` is the beginning of a sentence: `Cannot create image a.qcow2`. Adds qemu-img's reason and what to do. */
export function qemuImgError(what: string, outcome: QemuImgOutcome): XenblkError {
  const reason = reasonOf(outcome);
  const remedy = REMEDIES.find(([pattern]) => pattern.test(reason))?.[1];
  return new XenblkError(`${what}: ${reason}`, remedy === undefined ? {} : { remedy });
}

/**
 * Qemu-img's lines without its name, without the options of `json:`, and without the repetition of
 * `Could not open 'x': Could not open 'x':`.
 */
function reasonOf({ status, stderr }: QemuImgOutcome): string {
  const lines = stderr.split("\n").map((line) => line.trim().replace(/^qemu-img: /, "").slice(0, 500)).filter((line) =>
    line !== ""
  );
  const text = lines.slice(0, 5).join("; ").replace(/Could not open 'json:\{.*\}': /g, "").replace(
    /(\b[^:]+: )\1+/g,
    "$1",
  );
  return text === "" ? `qemu-img ended with status ${status}` : text;
}
