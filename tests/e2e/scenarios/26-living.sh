# Disks that live while their guest uses them: fio verifies what it writes, and a database commits synchronously.
# suites: trixie
# short: none
# timeout: 1500 s
disk="$images/$E2E_NAME-disk.qcow2"
rm -f "$disk"
xenblk image create "qcow2:$disk" 96M
guest_start alpha
serve_start serve
"${XENBLK[@]}" attach alpha "qcow2:$disk" xvdb --background --timeout 300
image data 64M
"${XENBLK[@]}" attach alpha "$image" xvdc --background --timeout 300

# A row per transaction, each durable before the next one; the last number is what must be there.
guest_run alpha 'mkfs.ext4 -q /dev/xvdb && mount /dev/xvdb /mnt && sqlite3 /mnt/db "pragma journal_mode=wal; create table t(n integer primary key, text text);"' 120
guest_spawn alpha 'n=0; while test ! -e /tmp/enough; do n=$((n+1)); sqlite3 /mnt/db "pragma synchronous=full; insert into t values($n, hex(randomblob(500)));" >/dev/null || exit 1; echo $n >/tmp/rows; done'
database="$spawned"
sleep 20
guest_run alpha 'touch /tmp/enough; cat /tmp/rows'
guest_wait alpha "$database" 60
guest_run alpha 'sqlite3 /mnt/db "pragma integrity_check; select count(*) from t;"' 60
guest_stop alpha
