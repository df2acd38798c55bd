/**
 * Runs a program as a user without any right: nobody. The folder of root's that has Deno and its packages may be closed to
 * others; in the program's mount namespace it is open.
 */

const ROOT = new URL("../../", import.meta.url).pathname;

/** nobody and nogroup of Debian. */
export const NOBODY = 65534;

/** Arguments: a place for closed folders, these folders, `--`, and the command. */
const RUN_AS_NOBODY = `set -eu
places=$1; shift
while [ "$1" != -- ]; do
  closed=$1 place=$places$1; shift
  mkdir -p "$place"
  mount --bind "$closed" "$place"
  mount -t tmpfs -o mode=755 tmpfs "$closed"
  for folder in "$place"/* "$place"/.[!.]*; do
    [ -d "$folder" ] || continue
    mkdir "$closed/\${folder##*/}"
    mount --bind "$folder" "$closed/\${folder##*/}"
  done
done
shift
exec setpriv --reuid=${NOBODY} --regid=${NOBODY} --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs "$@"
`;

/** What precedes a command so that it runs as nobody. `place` is a folder that does not exist yet. */
export function asNobody(place: string): readonly string[] {
  const closed = new Set([Deno.execPath(), ROOT].flatMap(closedFolder));
  return ["unshare", "--mount", "sh", "-c", RUN_AS_NOBODY, "sh", place, ...closed, "--"];
}

/** The outermost folder of a path that others may not enter, if there is one. */
function closedFolder(path: string): string[] {
  const names = path.split("/").slice(1, -1);
  const folders = names.map((_, index) => `/${names.slice(0, index + 1).join("/")}`);
  return folders.filter((folder) => ((Deno.statSync(folder).mode ?? 0) & 1) === 0).slice(0, 1);
}
