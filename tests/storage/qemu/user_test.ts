/**
 * The user of storage daemons: found by name or number, and refused if he cannot run them.
 */

import { assertEquals, assertThrows } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import { daemonUser, userOf } from "../../../lib/storage/qemu/user.ts";

const PASSWD = "root:x:0:0:root:/r:/bin/bash\nme:x:10:20::/h/me:/bin/sh\nnone:x:11:11:::\n10:x:12:12::/h/ten:\nbad\n";

Deno.test("a user is found by his name, else by his number", () => {
  assertEquals(userOf(0, PASSWD), { name: "root", uid: 0, gid: 0, home: "/r" });
  assertEquals(userOf("me", PASSWD), { name: "me", uid: 10, gid: 20, home: "/h/me" });
  assertEquals(userOf("11", PASSWD), { name: "none", uid: 11, gid: 11 });
  assertEquals(userOf("10", PASSWD)?.name, "10");
  assertEquals([userOf("you", PASSWD), userOf(1, PASSWD), userOf("bad", PASSWD)], [undefined, undefined, undefined]);
});

Deno.test("a user who cannot run daemons is a usage error that says why", () => {
  const refusal = (...args: Parameters<typeof daemonUser>): string =>
    assertThrows(() => daemonUser(...args), XenblkError).line;
  assertEquals(
    refusal("you", PASSWD, true),
    "Cannot run storage daemons as user you: /etc/passwd has no such user; create him: `useradd --system you`",
  );
  assertEquals(
    refusal("me", PASSWD, false),
    "Cannot run storage daemons as user me: only root can start programs as another user; leave --daemon-user out",
  );
  assertEquals(
    refusal("root", PASSWD, true),
    "Cannot run storage daemons as user root: that is root; leave --daemon-user out, or name another user",
  );
});
