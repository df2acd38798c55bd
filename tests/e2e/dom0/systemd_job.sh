#!/bin/bash
# Runs the job of a boot whose process 1 is systemd, as a unit. Its progress goes to the console, as that of init does.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LC_ALL=C TERM=dumb
exec </dev/null >/dev/console 2>&1
. "$(dirname "${BASH_SOURCE[0]}")/run_job.sh"
# shellcheck source=/dev/null
. /payload/job.conf
dmesg -n 4
say "systemd is up after $(cut -d ' ' -f 1 /proc/uptime) s"
run_job
journalctl -b --no-pager >/out/journal.txt 2>&1
systemctl list-units --all --no-pager >/out/units.txt 2>&1
power_off
