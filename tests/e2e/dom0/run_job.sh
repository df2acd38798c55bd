# The last steps of a boot, whatever process 1 is: the job with its timeout, the logs of the whole boot, and the end.
# Sourced by init, and by systemd_job.sh.

say() { echo "e2e dom0: $*"; }

run_job() {
  timeout -k 20 "$E2E_JOB_SECONDS" bash /payload/project/tests/e2e/dom0/job.sh
  say "the job ended with $?"
  dmesg >/out/dom0-dmesg.txt
  xl dmesg >/out/xl-dmesg.txt 2>&1
  cp -r /var/log/xen /out/xen-logs
}

power_off() {
  sync
  umount /out /scratch 2>/dev/null
  sync
  say "powering off"
  echo o >/proc/sysrq-trigger
  sleep 60
}
