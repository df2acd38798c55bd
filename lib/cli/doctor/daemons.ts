/**
 * The checks of `doctor` on storage daemons: the programs are there, and none of those that run needs attention. They
 * return rows, as in checks.ts.
 */

import { errorText, XenblkError } from "../../errors.ts";
import type { DaemonProgram } from "../../storage/qemu/program.ts";
import type { DaemonSeen, LostSeen } from "../../storage/qemu/survey.ts";
import type { LogContent } from "../../storage/write_log/log.ts";
import type { Finding } from "./checks.ts";

/** The storage daemon's program can be used; without it only raw images can be. `program`: found, or why not. */
export function checkProgram(program: DaemonProgram | Error): Finding {
  const check = "qemu-storage-daemon";
  if (program instanceof Error) return rawOnly(check, program);
  return { check, standing: "ok", detail: `${program.version}, ${program.path}` };
}

/** The same of qemu-img, which reads headers. `said`: what it prints as its version, or why it cannot be run. */
export function checkQemuImg(said: string | Error): Finding {
  const check = "qemu-img";
  if (said instanceof Error) return rawOnly(check, said);
  return { check, standing: "ok", detail: /version (\d[\d.]*)/.exec(said)?.[1] ?? "its version is unknown" };
}

function rawOnly(check: string, error: Error): Finding {
  const remedy = error instanceof XenblkError ? error.remedy : undefined;
  const detail = `raw images only: ${error instanceof XenblkError ? error.message : errorText(error)}`;
  return { check, standing: "warn", detail, fix: remedy ?? "run deno with --allow-all" };
}

/** What a removed device was answered and is not in its image yet. `content`: what its write log holds. */
export function checkLost({ device, name }: LostSeen, content: LogContent): Finding {
  const amount = `${content.operations} operations (${content.bytes} bytes)`;
  return {
    check: "unwritten disks",
    standing: "warn",
    detail: `${amount} that ${device}, removed since, was answered are not in ${name} yet`,
    fix: "start xenblk serve: it writes them; until its log says so, do not use the image otherwise",
  };
}

/**
 * No daemon serves a removed device, died, or runs a program that was replaced. `isGone` judges a device by its label;
 * absent if that is unknown.
 */
export function checkDaemons(daemons: readonly DaemonSeen[], isGone?: (device: string) => boolean): Finding[] {
  const check = "storage daemons";
  const warn = (detail: string, fix: string): Finding => ({ check, standing: "warn", detail, fix });
  const rows = daemons.flatMap((daemon): Finding[] => {
    const { guest, pid, alive, upgraded, rooted, disks } = daemon;
    const name = `process ${pid} of domain ${guest}`;
    const gone = isGone === undefined ? [] : disks.filter(isGone);
    if (gone.length > 0 || disks.length === 0) {
      const what = alive ? "serves" : "died, and has left files of";
      const whom = gone.join(", ") || "no disk";
      return [
        warn(
          `${name} ${what} ${whom}${gone.length > 0 ? ", removed since" : ""}`,
          "xenblk serve ends it when it starts",
        ),
      ];
    }
    if (!alive) {
      const fix =
        "start xenblk serve: it serves the disk anew, after it has written what the daemon may have lost again";
      return [warn(`${name} died; it served ${disks.join(", ")}`, fix)];
    }
    const found: Finding[] = [];
    if (upgraded) {
      const fix =
        "none is needed; to use the new one, detach the guest's disks and attach them again, or restart the guest";
      found.push(warn(`${name} runs QEMU ${daemon.qemu}, and its package was upgraded since`, fix));
    }
    if (!rooted) {
      const fix = "let xenblk use mount namespaces (CAP_SYS_ADMIN and CAP_SYS_CHROOT), then attach the disks again";
      found.push(warn(`${name} can open files beside its disks`, fix));
    }
    return found;
  });
  if (rows.length > 0) return rows;
  const number = daemons.length === 0 ? "none runs" : `${daemons.length} run`;
  return [{ check, standing: "ok", detail: number }];
}
