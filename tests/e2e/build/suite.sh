# The differences between the two dom0 roots: the Xen version of a Debian suite, and the packages of its root.
# Sourced, never run.

xen_version_of() {
  case "$1" in
    bookworm) echo 4.17 ;;
    trixie) echo 4.20 ;;
    *) echo "no Xen version is known for Debian suite $1" >&2; return 1 ;;
  esac
}

# Packages to install into the dom0 root. qemu-system-xen is a peer (qdisk). Debian 13 has qemu-storage-daemon in
# qemu-utils; Debian 12 has it in qemu-system-common, and no scenario needs it there.
root_packages() {
  local xen
  xen="$(xen_version_of "$1")"
  echo "xen-utils-$xen xenstore-utils qemu-system-xen qemu-utils busybox-static e2fsprogs kmod procps strace dmsetup sqlite3"
}

# Packages to unpack only: their maintainer scripts would make an initramfs and a boot loader menu. grub-xen-host has the
# GRUB that runs inside a PV guest.
unpacked_packages() { echo "xen-hypervisor-$(xen_version_of "$1")-amd64 grub-xen-host"; }
