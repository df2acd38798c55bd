#!/usr/bin/env bash
# Makes the images of a suite from its base: the hypervisor, the kernel as an ELF file, dom0's initramfs and root image,
# and the guest's initramfs. Usage: images.sh BASE FIO OUT
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/common.sh"
source "$here/kernel.sh"

base="$1" fio="$2" out="$3"
version="$(cat "$base/kernel-version")"
work="$out.new"
rm -rf "$out" "$work"
mkdir -p "$work/tree"

# The scenarios expect these files in the root, besides Debian's packages. The rest of dom0's init is in the checkout.
furnish_root() {
  local root="$1"
  install -m 755 "$fio" "$root/usr/local/bin/fio"
  mkdir -p "$root"/{payload,out,scratch,boot} "$root/usr/lib/modules"
  copy_modules "$base/unpacked" "$version" "$root" crc32c_generic xen-gntdev xen-gntalloc xen-evtchn xen-privcmd xenfs \
    xen-blkback xen-blkfront loop ext4 dm-flakey dm-delay dm-log-writes virtio_blk virtio_pci
  install -D -m 644 -t "$root/usr/lib/grub-xen" "$base/unpacked/usr/lib/grub-xen/grub-x86_64-xen.bin"
  cp "$work/vmlinux" "$work/guest.cpio" "$root/boot/"
  # For GRUB, which reads slowly and unpacks gzip.
  gzip -c "$work/vmlinux" >"$root/boot/vmlinux.gz"
  gzip -c "$work/guest.cpio" >"$root/boot/guest.cpio.gz"
  rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
}

say "making the images of Linux $version"
gunzip -c "$base"/unpacked/boot/xen-*.gz >"$work/xen"
kernel_elf "$base"/unpacked/boot/vmlinuz-* "$work/vmlinux"
dom0_initramfs "$base" "$version" "$here/../dom0/initramfs-init" "$work/tree/dom0" "$work/dom0.cpio"
guest_initramfs "$base" "$version" "$here/../guest/init" "$fio" "$work/tree/guest" "$work/guest.cpio"
cp -a "$base/root" "$work/tree/root"
furnish_root "$work/tree/root"
mke2fs -q -t ext4 -O ^has_journal -E root_owner=0:0 -d "$work/tree/root" "$work/root.ext4" 1400M >/dev/null
rm -rf "$work/tree"
mv "$work" "$out"
