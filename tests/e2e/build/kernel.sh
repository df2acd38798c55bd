# Makes kernel and initramfs files from an unpacked linux-image package: the ELF file inside vmlinuz, the needed modules
# in loading order, and plain cpio archives. Sourced by images.sh.

little_endian() { od -An -t"u$2" -j"$1" -N"$2" "$3" | tr -d ' '; }

# The ELF kernel inside a bzImage, because Xen and libxenguest unpack a bzImage slowly. kernel_elf VMLINUZ OUT
kernel_elf() {
  local setup offset length
  setup="$(little_endian 497 1 "$1")" offset="$(little_endian 584 4 "$1")" length="$(little_endian 588 4 "$1")"
  # The last four bytes of the payload are its unpacked length, which is not part of the stream.
  tail -c +$(((setup + 1) * 512 + offset + 1)) "$1" | head -c $((length - 4)) >"$2.packed" || true
  case "$(od -An -tx1 -N4 "$2.packed" | tr -d ' ')" in
    28b52ffd) zstd -q -d -f "$2.packed" -o "$2" ;;
    fd377a58) xz -dc "$2.packed" >"$2" ;;
    *) die "$1: kernel packed in a way that is not known here" ;;
  esac
  rm "$2.packed"
}

# Copies modules and their dependencies, uncompressed, and indexes them. copy_modules UNPACKED VERSION ROOT MODULE...
copy_modules() {
  local from="$1" version="$2" root="$3" tree file target
  shift 3
  tree="$from"
  [ -d "$from/usr/lib/modules" ] && tree="$from/usr"
  [ -f "$tree/lib/modules/$version/modules.dep" ] || depmod -b "$tree" "$version"
  for module in "$@"; do module_files "$tree" "$version" "$module"; done | sort -u | while read -r file; do
    target="$root/usr/lib/modules/$version/${file#*/modules/"$version"/}"
    target="${target%.xz}"
    [ -f "$target" ] && continue
    mkdir -p "$(dirname "$target")"
    case "$file" in *.xz) xz -dc "$file" >"$target" ;; *) cp "$file" "$target" ;; esac
  done
  cp "$tree/lib/modules/$version"/modules.{builtin,builtin.modinfo,order} "$root/usr/lib/modules/$version/"
  [ -e "$root/lib" ] || ln -s usr/lib "$root/lib"
  depmod -b "$root" "$version"
}

# Prints the files of a module and its dependencies in loading order; nothing for a built-in module.
module_files() {
  modprobe -d "$1" -S "$2" --show-depends "$3" 2>/dev/null | awk '$1 == "insmod" { print $2 }'
}

# A program of a root with the libraries that it loads. copy_program ROOT PROGRAM TARGET
copy_program() {
  local file
  { echo "$2"; chroot "$1" ldd "$2" 2>/dev/null | grep -o '/[^ ]*'; } | sort -u | while read -r file; do
    [ -e "$3$file" ] && continue
    mkdir -p "$3$(dirname "$file")"
    cp -L "$1$file" "$3$file"
  done
}

# A root with little but busybox. base_tree TREE ROOT
base_tree() {
  local tree="$1" root="$2" applet
  mkdir -p "$tree"/{bin,dev,proc,sys,run,tmp,mnt,usr/bin,usr/lib,usr/lib64,usr/sbin}
  ln -s usr/lib "$tree/lib"
  ln -s usr/lib64 "$tree/lib64"
  ln -s usr/sbin "$tree/sbin"
  cp "$(find "$root/bin/" "$root/usr/bin/" -name busybox | head -1)" "$tree/bin/busybox"
  for applet in sh mount modprobe sleep switch_root; do ln -s busybox "$tree/bin/$applet"; done
  # The kernel runs it from here when ext4 needs a checksum driver.
  ln -s ../../bin/busybox "$tree/usr/sbin/modprobe"
}

pack() { (cd "$1" && find . -print0 | sort -z | cpio --quiet --null -o -H newc --owner=0:0) >"$2"; }

# dom0_initramfs BASE VERSION INIT TREE OUT: it mounts the root image and continues there.
dom0_initramfs() {
  local base="$1" version="$2" init="$3" tree="$4" out="$5"
  base_tree "$tree" "$base/root"
  copy_modules "$base/unpacked" "$version" "$tree" virtio_blk virtio_pci crc32c_generic ext4
  install -m 755 "$init" "$tree/init"
  pack "$tree" "$out"
}

# guest_initramfs BASE VERSION INIT FIO TREE OUT: the complete system of a guest.
guest_initramfs() {
  local base="$1" version="$2" init="$3" fio="$4" tree="$5" out="$6" program
  base_tree "$tree" "$base/root"
  copy_modules "$base/unpacked" "$version" "$tree" xen-blkfront crc32c_generic ext4 dm-mirror
  for program in /sbin/mke2fs /sbin/e2fsck /sbin/blkdiscard /sbin/blockdev /sbin/dmsetup /usr/bin/sha256sum /usr/bin/sqlite3 \
    /usr/bin/xenstore-read /usr/bin/xenstore-write /usr/bin/xenstore-watch /usr/bin/xenstore-rm; do
    copy_program "$base/root" "$program" "$tree"
  done
  ln -sf mke2fs "$tree/sbin/mkfs.ext4"
  install -D -m 755 "$fio" "$tree/usr/bin/fio"
  install -m 755 "$init" "$tree/init"
  pack "$tree" "$out"
}
