/**
 * The user as whom storage daemons run, as /etc/passwd has him (passwd(5)). Default: root, as this process.
 */

import { XenblkError } from "../../errors.ts";

/** A user of this host. */
export interface DaemonUser {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  /** Where libraries of stores look for keys, whatever HOME says; a service of systemd has no HOME. Absent: he has none. */
  readonly home?: string;
}

/** The user with this name or number in the text of /etc/passwd. */
export function userOf(named: string | number, passwd: string): DaemonUser | undefined {
  const users = passwd.split("\n").map((line) => line.split(":")).filter((fields) => fields.length >= 6);
  const found = users.find((fields) => fields[0] === named) ?? users.find((fields) => fields[2] === `${named}`);
  if (found === undefined) return undefined;
  const [name, , uid, gid, , home] = found;
  return { name: name!, uid: Number(uid), gid: Number(gid), ...(home === "" ? {} : { home: home! }) };
}

/** The same for the user that an operator names. Throws {@linkcode XenblkError} if he cannot run daemons. */
export function daemonUser(named: string, passwd: string, privileged: boolean): DaemonUser {
  const bad = (why: string, remedy: string): XenblkError =>
    new XenblkError(`Cannot run storage daemons as user ${named}: ${why}`, { kind: "usage", remedy });
  const user = userOf(named, passwd);
  if (user === undefined) throw bad("/etc/passwd has no such user", `create him: \`useradd --system ${named}\``);
  if (!privileged) throw bad("only root can start programs as another user", "leave --daemon-user out");
  if (user.uid === 0) throw bad("that is root", "leave --daemon-user out, or name another user");
  return user;
}

/** The text of /etc/passwd; empty if it cannot be read. */
export async function passwords(): Promise<string> {
  return await Deno.readTextFile("/etc/passwd").catch(() => "");
}
