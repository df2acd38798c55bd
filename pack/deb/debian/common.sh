programs=/usr/lib/xenblk

# in_use FOLDER: a process runs the program in the folder.
in_use() {
  for exe in /proc/[0-9]*/exe; do
    case $(readlink "$exe" 2>/dev/null) in
    "$1/deno" | "$1/deno (deleted)") return 0 ;;
    esac
  done
  return 1
}
