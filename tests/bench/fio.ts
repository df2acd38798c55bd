/**
 * What fio does with a file: the limit that a storage engine is compared with. It must not know rings or guests.
 */

/** A load, as fio and a simulated guest can both make it. */
export interface BenchLoad {
  readonly write: boolean;
  readonly blockBytes: number;
  readonly depth: number;
}

/** Why there is no fio here, with the Debian package that has it; undefined if there is. */
export function missingFio(): string | undefined {
  try {
    new Deno.Command("fio", { args: ["--version"], stdout: "null", stderr: "null" }).outputSync();
    return undefined;
  } catch {
    return "fio is missing (Debian package fio)";
  }
}

/** I/O operations a second of random I/O on the file, through the page cache and io_uring. Throws if fio fails. */
export async function fioIops(path: string, load: BenchLoad, seconds: number): Promise<number> {
  const args = [
    "--name=bench",
    `--filename=${path}`,
    `--rw=${load.write ? "randwrite" : "randread"}`,
    `--bs=${load.blockBytes}`,
    `--iodepth=${load.depth}`,
    "--ioengine=io_uring",
    "--direct=0",
    "--invalidate=0",
    "--norandommap",
    "--time_based",
    `--runtime=${Math.round(seconds * 1000)}ms`,
    "--output-format=json",
  ];
  const { success, stdout, stderr } = await new Deno.Command("fio", { args }).output();
  if (!success) throw new Error(`Cannot run fio: ${new TextDecoder().decode(stderr).trim()}`);
  const report = JSON.parse(new TextDecoder().decode(stdout));
  return report.jobs[0][load.write ? "write" : "read"].iops;
}
