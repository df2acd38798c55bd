#!/bin/bash
# The job of one boot: runs the scenarios in job.conf, each in its own process with its own timeout. It judges each by
# its exit status, by the logs, and by what it left behind. Results go to /out, one folder per scenario.
. /payload/job.conf
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$here/judge.sh"
export E2E_HERE="$here" E2E_SUITE E2E_FULL
export DENO_DIR=/scratch/deno-dir DENO_NO_UPDATE_CHECK=1 NO_COLOR=1
mkdir -p /scratch/deno-dir

run_one() {
  local name="$1" file="$here/../scenarios/$1.sh" started="$SECONDS" status=0 seconds
  export E2E_NAME="$name" E2E_OUT="/out/$name"
  mkdir -p "$E2E_OUT"
  seconds="$(sed -n 's/^# timeout: \([0-9]*\) s$/\1/p' "$file")"
  logs_begin
  echo "e2e: BEGIN $name"
  timeout -k 10 "${seconds:-240}" bash -c '. "$E2E_HERE/lib.sh"; . "$1"' - "$file" >"$E2E_OUT/log.txt" 2>&1 || status=$?
  case "$status" in
    0) ;;
    77) ;;
    124 | 137) echo "FAIL: took longer than ${seconds:-240} s" >>"$E2E_OUT/log.txt" ;;
  esac
  snapshot
  clean_up
  logs_end || { [ "$status" -ne 0 ] || status=1; }
  left_behind || { [ "$status" -ne 0 ] || status=1; }
  echo "$status $((SECONDS - started))" >"$E2E_OUT/result"
  sync
  echo "e2e: END $name $status $((SECONDS - started)) $(reason "$status")"
}

for name in $E2E_SCENARIOS; do run_one "$name"; done
echo "e2e: DONE"
