/**
 * Describes the machine of a run, for the first line of the report. Reads /proc and runs the programs to get their
 * versions.
 */

import { statfsSync } from "node:fs";

/** A machine, and the programs on it. */
export interface Machine {
  readonly processor: string;
  readonly cpus: number;
  readonly memoryBytes: number;
  readonly kernel: string;
  /** Versions of the measured programs and tools, by name. */
  readonly programs: Readonly<Record<string, string>>;
}

/** File systems by the magic number of statfs(2). */
const FILE_SYSTEMS: ReadonlyMap<number, string> = new Map([
  [0xEF53, "ext4"],
  [0x01021994, "tmpfs"],
  [0x58465342, "xfs"],
  [0x9123683E, "btrfs"],
  [0x794C7630, "overlayfs"],
]);

/** This machine. The version of a program is the first version number that its command prints. */
export async function describeMachine(commands: Readonly<Record<string, readonly string[]>>): Promise<Machine> {
  const [cpuinfo, meminfo, release] = await Promise.all(
    ["/proc/cpuinfo", "/proc/meminfo", "/proc/sys/kernel/osrelease"].map((path) => Deno.readTextFile(path)),
  );
  const programs: Record<string, string> = { Deno: Deno.version.deno };
  for (const [name, command] of Object.entries(commands)) programs[name] = await versionOf(command);
  return {
    processor: /^model name\s*:\s*(.*)$/m.exec(cpuinfo!)?.[1] ?? Deno.build.arch,
    cpus: navigator.hardwareConcurrency,
    memoryBytes: Number(/^MemTotal:\s*(\d+)/m.exec(meminfo!)?.[1] ?? 0) * 1024,
    kernel: release!.trim(),
    programs,
  };
}

/** One line: `AMD EPYC, 2 CPUs, 23.5 GiB, Linux 6.18.5, Deno 2.9.6, QEMU 7.2.22, fio 3.33`. */
export function machineLine(machine: Machine): string {
  const { processor, cpus, memoryBytes, kernel, programs } = machine;
  const size = `${cpus} ${cpus === 1 ? "CPU" : "CPUs"}, ${(memoryBytes / 2 ** 30).toFixed(1)} GiB`;
  const versions = Object.entries(programs).map(([name, version]) => `${name} ${version}`);
  return [processor, size, `Linux ${kernel}`, ...versions].join(", ");
}

/** The kind of file system that a directory is on, or its number in hexadecimal. */
export function fileSystemOf(directory: string): string {
  const { type } = statfsSync(directory);
  return FILE_SYSTEMS.get(type) ?? `file system ${type.toString(16)}`;
}

/** Processor time of a process with all its threads, in seconds, in steps of 10 ms. */
export function processorSeconds(pid: number): number {
  return parseProcessorSeconds(Deno.readTextFileSync(`/proc/${pid}/stat`));
}

/** Resident memory of a process, in bytes. */
export function residentBytes(pid: number): number {
  return Number(/^VmRSS:\s+(\d+)/m.exec(Deno.readTextFileSync(`/proc/${pid}/status`))![1]) * 1024;
}

/** utime and stime of a /proc/PID/stat. The process's name, in parentheses, may contain spaces and parentheses. */
export function parseProcessorSeconds(stat: string): number {
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

/**
 * Whether a process has a file open with O_DIRECT, by the flags in /proc/PID/fdinfo. Its path of the file may be another.
 */
export function opensDirectly(pid: number, path: string): boolean {
  const O_DIRECT = Deno.build.arch === "aarch64" ? 0o200000 : 0o40000;
  const { dev, ino } = Deno.statSync(path);
  return [...Deno.readDirSync(`/proc/${pid}/fd`)].some(({ name }) => {
    try {
      const open = Deno.statSync(`/proc/${pid}/fd/${name}`);
      if (open.dev !== dev || open.ino !== ino) return false;
      const info = Deno.readTextFileSync(`/proc/${pid}/fdinfo/${name}`);
      return (parseInt(/^flags:\s*(\d+)/m.exec(info)![1]!, 8) & O_DIRECT) !== 0;
    } catch {
      return false; // closed meanwhile
    }
  });
}

async function versionOf([program, ...args]: readonly string[]): Promise<string> {
  try {
    const { stdout } = await new Deno.Command(program!, { args, stdin: "null", stderr: "null" }).output();
    return /\d+(\.\d+)+/.exec(new TextDecoder().decode(stdout))?.[0] ?? "of unknown version";
  } catch {
    return "missing";
  }
}
