/**
 * One storage daemon: started or found again, asked to open and export disks, watched, and ended. The methods that
 * change its disks are called one at a time.
 */

import { errorText } from "../../errors.ts";
import type { Logger } from "../../log.ts";
import type { DaemonMonitor, Reroute } from "../disk.ts";
import { endsWithin } from "../../within.ts";
import { basicEnvironment } from "./command.ts";
import { type AllowedFile, startCommand } from "./confinement.ts";
import { explainQmpError } from "./explain.ts";
import { exportAnew, exportDisk, nodeSize, openDiskAsPermitted, presentParts } from "./graph_steps.ts";
import { endLeftView, prefixOf } from "./instant.ts";
import { endCommit } from "./commit_job.ts";
import { DaemonFiles } from "./placing.ts";
import type { DiskPlan } from "./plan.ts";
import { hasEnded, identify, type ProcessIdentity, signal, statusText } from "./process.ts";
import { QmpConnection, QmpError, type QmpObject } from "./qmp.ts";
import { QmpAbsentError, QmpSilentError } from "./silence.ts";
import { lostOfPlan, lostWith } from "./leftovers.ts";
import { closeDisk, endExport, type Execute, removeAdded } from "./removal.ts";
import {
  type DaemonRecord,
  type DiskRecord,
  isSameFile,
  type LostDisk,
  recordedFile,
  type RunDirectory,
  withDisk,
} from "./record.ts";
import { endedAtStart, keptByKernel, tooLateAtStart } from "./refusals.ts";
import type { DaemonEnvironment, DaemonStart } from "./start.ts";
import { DaemonErrors } from "./stderr.ts";

/** How long a daemon may take to start: confined by a script of two dozen programs, on a host with busy processors. */
const START_MS = 30_000;
const START_LOOK_MS = 5;
/** How long a daemon may take to end: when asked, by SIGTERM, and by SIGKILL. */
const QUIT_MS = 5_000;
const TERMINATE_MS = 2_000;
const KILL_MS = 2_000;
/**
 * One that does not answer this soon is not asked to close a disk, and sooner still if it was silent before: closing a
 * guest's disks must not hold up the end of this process.
 */
const PING_MS = 2_000;
const SILENT_PING_MS = 100;
/** How soon after its connection the process of a daemon that died is gone. */
const DEATH_MS = 1_000;

/** A running daemon, or one that ended. */
export class StorageDaemon implements Disposable {
  /** Resolves, never rejects, with the reason when the process ends. */
  readonly died: Promise<string>;
  readonly directory: RunDirectory;
  readonly #environment: DaemonEnvironment;
  readonly #logger: Logger;
  readonly #errors: DaemonErrors;
  readonly #death = Promise.withResolvers<string>();
  readonly #files: DaemonFiles;
  #record: DaemonRecord;
  #qmp: QmpConnection | undefined;
  #opening: Promise<QmpConnection> | undefined;
  /** What is found out once the connection has ended. */
  #reporting: Promise<unknown> = Promise.resolve();
  #isOver = false;
  #endedWell = false;
  #ending = false;
  /** Nobody here watches it any more. */
  #left = false;
  /** It did not answer the last request. */
  #silent = false;
  readonly #execute: Execute = async (command, args, timeoutMs) => {
    try {
      const answer = await (await this.#monitor(timeoutMs)).execute(command, args, timeoutMs);
      this.#silent = false;
      return answer;
    } catch (error) {
      this.#silent = error instanceof QmpSilentError;
      throw error;
    }
  };
  /** Of a child of this process. */
  #child: Deno.ChildProcess | undefined;

  private constructor(environment: DaemonEnvironment, directory: RunDirectory, logger: Logger, record: DaemonRecord) {
    this.#environment = environment;
    this.directory = directory;
    this.#logger = logger;
    this.#errors = new DaemonErrors(directory.errors, logger);
    this.#record = record;
    this.#files = new DaemonFiles(this, logger, environment.requestMs);
    this.died = this.#death.promise;
  }

  /** Starts a daemon without disks. Rejects with {@linkcode XenblkError}; then none runs. */
  static async start(
    environment: DaemonEnvironment,
    directory: RunDirectory,
    logger: Logger,
    { program, confinement, guest, uuid, lost }: DaemonStart,
  ): Promise<StorageDaemon> {
    await directory.prepare(confinement.user);
    const [command, ...args] = startCommand(program, confinement, directory);
    const child = new Deno.Command(command!, {
      args,
      stdin: "null",
      stdout: "null",
      stderr: "null",
      detached: true,
      clearEnv: true,
      env: basicEnvironment(),
    }).spawn();
    child.unref();
    const process = await identify(child.pid) ?? { pid: child.pid, startTime: "", bootId: "" };
    const record: DaemonRecord = {
      version: 1,
      guest,
      ...(uuid === undefined ? {} : { uuid }),
      process,
      qemu: program.version,
      rooted: confinement.rooted,
      disks: {},
      lost,
    };
    const daemon = new StorageDaemon(environment, directory, logger, record);
    daemon.#child = child;
    try {
      await directory.write(record);
      await daemon.#connectAtStart(child.status);
    } catch (error) {
      daemon.#ending = true;
      daemon[Symbol.dispose]();
      await signal(process, "SIGKILL");
      await hasEnded(process, KILL_MS);
      child.ref();
      await endsWithin(child.status, KILL_MS);
      if (Object.keys(lost).length === 0) await directory.remove();
      throw error;
    }
    void child.status.then((status) => {
      daemon.#endedWell = status.success;
      daemon.#over(statusText(status));
    });
    logger.info(`started QEMU ${program.version}, process ${process.pid}`);
    return daemon;
  }

  /** Finds a running one again; undefined: it was about to end. Rejects with QmpSilentError if it does not answer. */
  static async adopt(
    environment: DaemonEnvironment,
    directory: RunDirectory,
    logger: Logger,
    record: DaemonRecord,
  ): Promise<StorageDaemon | undefined> {
    const daemon = StorageDaemon.recorded(environment, directory, logger, record);
    try {
      await daemon.#monitor();
    } catch (error) {
      daemon[Symbol.dispose]();
      if (!await hasEnded(record.process, DEATH_MS)) throw error;
      return undefined;
    }
    logger.info(`found again: QEMU ${record.qemu}, process ${record.process.pid}`);
    return daemon;
  }

  /** A running daemon that is not connected to yet. */
  static recorded(
    environment: DaemonEnvironment,
    directory: RunDirectory,
    logger: Logger,
    record: DaemonRecord,
  ): StorageDaemon {
    return new StorageDaemon(environment, directory, logger, record);
  }

  /** Its process. */
  get process(): ProcessIdentity {
    return this.#record.process;
  }

  /** It ended as it does when asked: it closed its images, and lost nothing. */
  get endedWell(): boolean {
    return this.#endedWell;
  }

  /** What a later process will find. */
  get record(): DaemonRecord {
    return this.#record;
  }

  /** For messages. */
  get name(): string {
    const { guest, process } = this.#record;
    return `the storage daemon of domain ${guest} (process ${process.pid})`;
  }

  /** The reason of its end, if its process ends within the time; undefined: it runs. */
  async fate(timeoutMs = DEATH_MS): Promise<string | undefined> {
    const known = this.#isOver || (this.#child !== undefined && await endsWithin(this.died, timeoutMs));
    if (!known && !await hasEnded(this.process, this.#child === undefined ? timeoutMs : 0)) return undefined;
    if (this.#child === undefined) this.#over("its exit status is unknown, as an earlier process started it");
    this.#child?.ref();
    return await this.died;
  }

  /**
   * Opens and exports a disk, or takes over one that an earlier process left here. Returns the socket's path. Rejects
   * with {@linkcode XenblkError}; then the disk is not here, unless the daemon does not answer.
   */
  async add(device: string, name: string, plan: DiskPlan): Promise<string> {
    const socket = this.directory.socket(device);
    const known = this.#record.disks[device];
    if (known?.exported && known.plan === plan.identity && await this.#takeOver(known, plan, socket)) return socket;
    if (known !== undefined) await this.remove(device, PING_MS);
    await this.#files.place(name, plan.files);
    const files = await Promise.all(plan.files.map(recordedFile));
    const { identity, exportId, nodeNames: nodes, objectIds: objects, durable, graph } = plan;
    const { tag } = await this.lostBefore(device, plan) ?? plan;
    const kept = { ...(tag && { tag }), ...(graph && { graph }) };
    const disk = { name, plan: identity, durable, exportId, nodes, objects, files, ...kept };
    await this.#write(withDisk(this.#record, device, { ...disk, exported: false }));
    try {
      await openDiskAsPermitted(
        this.#execute,
        plan,
        this.#environment,
        (why) => this.#logger.warning(`${name}: ${why}`),
      );
      await exportDisk(this.#execute, plan.export(socket));
      await this.#write(withDisk(this.#record, device, { ...disk, exported: true }));
    } catch (error) {
      // One that does not answer keeps it in its record, for the next attempt.
      if (!(error instanceof QmpSilentError)) await this.remove(device).catch((also) => this.#warn(also));
      throw error instanceof QmpError ? explainQmpError(name, error) : error;
    }
    return socket;
  }

  /**
   * Removes a disk, if it is here. One that loses writes by the death of this daemon stays among those that were lost.
   * Rejects with {@linkcode XenblkError} if it cannot be removed, or the daemon does not answer within the time; then it
   * stays in the record. A record that cannot be written does not keep the disk here: a later process finds it missing.
   */
  async remove(device: string, pingMs = this.#silent ? SILENT_PING_MS : PING_MS): Promise<void> {
    const { [device]: disk, ...disks } = this.#record.disks;
    if (disk === undefined) return;
    const death = await this.fate(0);
    if (death === undefined) {
      await this.#execute("query-version", undefined, pingMs);
      await this.#endView(disk);
      await closeDisk(this.#execute, disk);
      await this.#files.take(disk.files.map(({ path }) => path), Object.values(disks));
    }
    const lost = this.endedWell ? {} : lostWith({ [device]: disk }, death);
    this.#record = { ...this.#record, disks, lost: { ...lost, ...this.#record.lost } };
    await this.#write(this.#record).catch((error) => this.#warn(error));
  }

  /** What an earlier daemon of the disk has lost, if it died unseen. */
  async lostBefore(device: string, plan: DiskPlan): Promise<LostDisk | undefined> {
    const lost = this.#record.lost[device];
    return lost && await lostOfPlan(lost, plan);
  }

  /** The tag of a disk. */
  tagOf(device: string): string | undefined {
    return this.#record.disks[device]?.tag;
  }

  /** What an earlier daemon lost of the disk has been seen to. */
  async settle(device: string): Promise<void> {
    const { [device]: known, ...lost } = this.#record.lost;
    if (known !== undefined) await this.#write({ ...this.#record, lost });
  }

  /** Changes the size of a disk's top node. Rejects with {@linkcode XenblkError}. */
  async resize(name: string, top: string, sizeBytes: number): Promise<void> {
    await this.#execute("block_resize", { "node-name": top, size: sizeBytes }).catch((error) => {
      throw error instanceof QmpError ? explainQmpError(name, error) : error;
    });
  }

  /** The size of a node, in bytes. */
  async sizeOf(node: string): Promise<number> {
    return await nodeSize(this.#execute, node);
  }

  /** Exports a disk anew, see there; its client loses its connection. Returns the socket's path. */
  async exportAnew(device: string, plan: DiskPlan, change?: Reroute): Promise<string> {
    const socket = this.directory.socket(device);
    await exportAnew(this.#execute, plan.export(socket, this.#record.disks[device]?.live?.top), change);
    return socket;
  }

  /** Replaces what is recorded of disks, all at once. Rejects with {@linkcode XenblkError}; then the record is as before. */
  async writeDisks(disks: readonly (readonly [string, DiskRecord])[]): Promise<void> {
    await this.#write({ ...this.#record, disks: { ...this.#record.disks, ...Object.fromEntries(disks) } });
  }

  /** Ends it whatever it does: its disks go on with another one. */
  async kill(): Promise<void> {
    await signal(this.process, "SIGKILL");
    await hasEnded(this.process, KILL_MS);
  }

  /** For work on a disk beside its guest's; `name` is the disk's. */
  monitorOf(name: string): Omit<DaemonMonitor, "changeTops" | "reroute"> {
    return {
      name: this.name,
      version: this.#record.qemu,
      pid: this.process.pid,
      sockets: this.directory.sockets,
      execute: this.#execute,
      allow: async (files) => await this.#files.place(name, files),
      disallow: async (paths) => await this.#files.take(paths, Object.values(this.#record.disks)),
    };
  }

  /** See {@linkcode DaemonFiles.hold}. */
  async hold(name: string, files: readonly AllowedFile[]): Promise<() => Promise<void>> {
    return await this.#files.hold(name, files);
  }

  /** Passes on what it wrote to its standard error. */
  async lookAtErrors(): Promise<void> {
    await this.#errors.look();
  }

  /**
   * Ends the process, whatever it holds, and removes its directory, unless it has lost disks. Rejects with
   * {@linkcode XenblkError} if it does not end.
   */
  async end(): Promise<void> {
    this.#ending = true;
    const { process } = this;
    let isForced = await hasEnded(process, 0);
    await this.#quit();
    for (const [name, timeoutMs] of [["SIGTERM", TERMINATE_MS], ["SIGKILL", KILL_MS]] as const) {
      if (await hasEnded(process, 0)) break;
      this.#logger.warning(`process ${process.pid} does not end: sending ${name}`);
      await signal(process, name);
      await hasEnded(process, timeoutMs);
      isForced ||= name === "SIGKILL";
    }
    if (!await hasEnded(process, 0)) throw keptByKernel(this.name);
    await this.fate(0);
    this[Symbol.dispose]();
    const { disks, lost } = this.#record;
    const all = { ...(isForced ? lostWith(disks, `${this.name} was ended by force`) : {}), ...lost };
    // What was lost is reported to those who open these disks again.
    if (Object.keys(all).length > 0) await this.#write({ ...this.#record, disks: {}, lost: all });
    else await this.directory.remove();
  }

  /**
   * Kills the process once the disk's requests have ended, or do not end. What the daemon has not written yet is not
   * written: a store that it lost must not get the second half of something.
   */
  async abandon(device: string): Promise<void> {
    this.#ending = true;
    const exportId = this.#record.disks[device]?.exportId;
    if (exportId !== undefined) await endExport(this.#execute, exportId).catch((error) => this.#warn(error));
    await this.kill();
  }

  /** Disconnects, and resolves when nothing of that goes on; the process does. */
  async leave(): Promise<void> {
    this[Symbol.dispose]();
    await this.#reporting;
  }

  /** Disconnects; the process goes on. */
  [Symbol.dispose](): void {
    this.#left = true;
    this.#qmp?.[Symbol.dispose]();
    this.#qmp = undefined;
  }

  async #quit(): Promise<void> {
    try {
      await this.#execute("quit", undefined, this.#silent ? SILENT_PING_MS : PING_MS);
      await hasEnded(this.process, QUIT_MS);
    } catch {
      // it is gone, or does not answer: signals follow
    }
  }

  async #connectAtStart(status: Promise<Deno.CommandStatus>): Promise<void> {
    const { startMs = START_MS, requestMs } = this.#environment;
    const deadline = performance.now() + startMs;
    let ended: Deno.CommandStatus | undefined;
    void status.then((end) => ended = end);
    for (;;) {
      try {
        // A machine on which a daemon starts slowly has it answer its first request slowly, too.
        await this.#monitor(requestMs ?? deadline - performance.now());
        return;
      } catch (error) {
        if (!(error instanceof QmpAbsentError) && ended === undefined) throw error;
      }
      if (ended !== undefined) {
        await this.#errors.look();
        await this.directory.checkRoom(); // without room it says nothing
        throw endedAtStart(this.name, `${statusText(ended)}${this.#errors.last}`);
      }
      if (performance.now() >= deadline) {
        throw tooLateAtStart(this.name, startMs);
      }
      await new Promise((resolve) => setTimeout(resolve, START_LOOK_MS));
    }
  }

  /** The connection; another one if an earlier one ended. The limit is for the greeting. */
  async #monitor(timeoutMs?: number): Promise<QmpConnection> {
    if (this.#qmp !== undefined) return this.#qmp;
    // Another daemon may listen at the path by now.
    if (this.#isOver) {
      const remedy = "repeat this once another daemon serves the disk";
      throw new QmpAbsentError(`Cannot reach ${this.name}: it has ended`, { remedy });
    }
    const opening = this.#opening ??= this.#connect(timeoutMs);
    try {
      return await opening;
    } finally {
      this.#opening = undefined;
    }
  }

  async #connect(timeoutMs?: number): Promise<QmpConnection> {
    const { requestMs } = this.#environment;
    const options = {
      name: this.name,
      ...(requestMs === undefined ? {} : { requestMs }),
      event: (name: string, data: QmpObject): void => this.#logger.debug(`event ${name} ${JSON.stringify(data)}`),
    };
    const qmp = this.#qmp = await QmpConnection.open(this.directory.monitor, options, timeoutMs);
    const report = async (reason: string): Promise<void> => {
      if (this.#qmp !== qmp) return;
      this.#qmp = undefined;
      if (await this.fate() === undefined && !this.#ending) this.#logger.warning(`cannot control it: ${reason}`);
    };
    this.#reporting = Promise.all([this.#reporting, qmp.closed.then(report)]);
    return qmp;
  }

  #over(how: string): void {
    if (this.#isOver) return;
    this.#isOver = true;
    if (this.#left) return this.#death.resolve(`${this.name} died: ${how}`);
    void this.#errors.look().then(() => {
      const why = `${how}${this.#errors.last}`;
      if (!this.#ending) this.#logger.error(`process ${this.process.pid} died: ${why}`);
      this.#death.resolve(`${this.name} died: ${why}`);
    });
  }

  /** Whether the disk that was left here can be used as it is; its export is added again if that is all that is missing. */
  async #takeOver(known: DiskRecord, plan: DiskPlan, socket: string): Promise<boolean> {
    const node = await this.#endView(known);
    const { nodes, exported } = await presentParts(this.#execute, known);
    if (!nodes) return false;
    await endCommit(this.#execute, known.nodes);
    if (!exported) {
      // A process may have ended while it led the guest's requests elsewhere, or back.
      if (node === undefined) await removeAdded(this.#execute, known);
      await exportDisk(this.#execute, plan.export(socket, node ?? known.live?.top));
    }
    for (const file of known.files) {
      if (isSameFile(file, await recordedFile(file))) continue;
      const what = "it was removed or replaced; the file that was opened is served until the disk is detached";
      this.#logger.warning(`${known.name}: ${file.path}: ${what}`);
    }
    return true;
  }

  /** Of a disk that nobody is connected to. See LeftOfView for the node. */
  async #endView({ nodes, exportId }: DiskRecord): Promise<string | undefined> {
    const { node, closed } = await endLeftView(this.#execute, prefixOf(nodes[0] ?? ""), exportId);
    if (closed.length > 0) await this.#files.take(closed, Object.values(this.#record.disks));
    return node;
  }

  async #write(record: DaemonRecord): Promise<void> {
    await this.directory.write(record);
    this.#record = record;
  }

  #warn(error: unknown): void {
    this.#logger.warning(errorText(error));
  }
}
