#!/usr/bin/env bash
# Boots Xen with a dom0 in QEMU's software emulation and waits until dom0 powers off. The serial console is on stdout.
# Usage: boot.sh IMAGES PAYLOAD OUTPUT SCRATCH
set -euo pipefail
images="$1" payload="$2" output="$3" scratch="$4"

# With SMAP or SMEP, Xen dies at dom0's first exception. Without eager-fpu (a part of spec-ctrl), floating-point and XMM
# registers leak between domains.
xen="console=com1 com1=115200,8n1 dom0_mem=2048M,max:2048M dom0_max_vcpus=2 spec-ctrl=no,eager-fpu=yes"
xen="$xen smep=0 smap=0 watchdog=0 loglvl=all guest_loglvl=all conring_size=1M"
dom0="console=hvc0 mitigations=off nokaslr no_timer_check panic=5"

exec qemu-system-x86_64 -accel tcg,thread=multi -cpu max,-smap,-smep,-svm -smp 2 -m 4096 \
  -display none -monitor none -serial stdio -nodefaults -no-reboot -nic none \
  -kernel "$images/xen" -append "$xen" -initrd "$images/vmlinux $dom0,$images/dom0.cpio" \
  -drive "file=$images/root.ext4,format=raw,if=virtio,snapshot=on" \
  -drive "file=$payload,format=raw,if=virtio,readonly=on" \
  -drive "file=$output,format=raw,if=virtio,cache=unsafe" \
  -drive "file=$scratch,format=raw,if=virtio,cache=unsafe" </dev/null
