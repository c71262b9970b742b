#!/bin/sh
# Makes the parity initramfs: mkinitramfs.sh BUSYBOX OUT.cpio.gz
# BUSYBOX is a static arm64 busybox. Needs cpio and gzip; the result is the
# same bytes for the same busybox but for the time stamps of the files.
set -eu
[ $# = 2 ] || { sed -n '2,4s/^# //p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir "$root/bin"
install -m 755 "$1" "$root/bin/busybox"
ln -s busybox "$root/bin/sh"
install -m 755 "$here/init" "$root/init"
install -m 644 "$here/parity.sh" "$root/parity.sh"
find "$root" -exec touch -h -d @0 {} +
(cd "$root" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 --reproducible) | gzip -9n > "$2"
