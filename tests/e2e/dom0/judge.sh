# Judges a scenario from outside: by the logs of guests, dom0 and Xen while it ran, and by what it left behind in
# xenstore, in the domain list and among the processes. Sourced by job.sh.

# Words that mean a failure: blkfront's messages about a faulty backend, kernel faults, failed I/O, errors of Xen.
BAD_WORDS='wrong operation|has not unmapped grant|disabled for further use|still in use|BUG|Oops|general protection|I/O error|Call Trace|WARNING: CPU|hung_task|blocked for more than|GPF|invalid grant|Bad page|bad flags .* or dom|Fatal'
# Messages of Debian's own parts that no backend causes.
HARMLESS='printk|dom0_max_vcpus'

logs_begin() {
  dmesg -C
  xl dmesg -c >/dev/null 2>&1
  rm -f /run/e2e/allowed /var/log/xen/console/*
  mkdir -p /run/e2e
}

# Keeps the logs of a scenario and searches them. A scenario permits words that it causes with `allow_words REGEX`.
logs_end() {
  local allowed="$HARMLESS" found
  dmesg >"$E2E_OUT/dom0-dmesg.txt"
  xl dmesg >"$E2E_OUT/xl-dmesg.txt" 2>&1
  cp /var/log/xen/console/guest-*.log "$E2E_OUT/" 2>/dev/null
  if [ -s /run/e2e/allowed ]; then allowed="$allowed|$(paste -sd'|' /run/e2e/allowed)"; fi
  found="$(grep -aEH "$BAD_WORDS" "$E2E_OUT"/dom0-dmesg.txt "$E2E_OUT"/xl-dmesg.txt "$E2E_OUT"/guest-*.log 2>/dev/null |
    sed "s|^$E2E_OUT/||" | grep -v 'e2e guest:' | grep -avE "$allowed")"
  [ -z "$found" ] && return 0
  { echo "FAIL: the logs contain words that mean a failure:"; echo "$found" | head -20; } >>"$E2E_OUT/log.txt"
  return 1
}

# Saves xenstore, the domains and dom0's event channels as they are at the scenario's end.
snapshot() {
  { xenstore-ls -fp; } >"$E2E_OUT/xenstore.txt" 2>&1
  { xl list; echo; /usr/lib/xen-*/bin/lsevtchn 0; echo; ps axo pid,ppid,stat,time,args | grep -v '\['; } >"$E2E_OUT/state.txt" 2>&1
}

# Ends everything that a scenario started: the processes that it noted, then domains, then loop devices.
clean_up() {
  local pid domain
  for pid in $(cat /run/e2e/pids 2>/dev/null); do kill "$pid" 2>/dev/null; done
  for domain in $(xl list 2>/dev/null | awk 'NR > 1 && $2 != 0 { print $2 }'); do xl destroy "$domain" 2>/dev/null; done
  sleep 0.5
  for pid in $(cat /run/e2e/pids 2>/dev/null); do kill -9 "$pid" 2>/dev/null; done
  rm -f /run/e2e/pids
  umount /run/e2e/* 2>/dev/null
  dmsetup remove_all --noudevsync >/dev/null 2>&1
  losetup -D 2>/dev/null
}

# Nothing may remain of a domain that is gone. A zombie in the list is a domain with pages that a process still maps.
left_behind() {
  local bad="" kind node
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    bad="$(xl list | awk 'NR > 1 && $2 != 0 { print "domain left: " $0 }')"
    [ -z "$bad" ] && break
    sleep 0.5
  done
  for node in $(xenstore-list /local/domain/0/backend 2>/dev/null); do
    for kind in $(xenstore-list "/local/domain/0/backend/$node" 2>/dev/null); do
      [ "$node" = console ] || [ "$node" = vif ] || bad="$bad
node left: /local/domain/0/backend/$node/$kind"
    done
  done
  bad="$bad
$(pgrep -fa '^[^ ]*qemu-storage-daemon' | sed 's/^/storage daemon left: /')"
  pkill -9 -f '^[^ ]*qemu-storage-daemon'
  rm -rf /run/xenblk/daemons
  bad="$(echo "$bad" | sed '/^$/d')"
  for node in $(xenstore-list /local/domain/0/backend 2>/dev/null); do xenstore-rm "/local/domain/0/backend/$node"; done
  [ -z "$bad" ] && return 0
  { echo "FAIL: the scenario left something behind:"; echo "$bad"; } >>"$E2E_OUT/log.txt"
  return 1
}

# One line for the summary.
reason() {
  case "$1" in
    0) grep -a '^NOTE: ' "$E2E_OUT/log.txt" | tail -1 ;;
    77) grep -a '^SKIP: ' "$E2E_OUT/log.txt" | tail -1 ;;
    *) grep -a '^FAIL: ' "$E2E_OUT/log.txt" | head -1 ;;
  esac
}
