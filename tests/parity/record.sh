#!/bin/sh
# Records expected.txt on Linux: record.sh VMLINUZ BUSYBOX
# CPU and SMP in the environment choose the machine (neoverse-n1, 2).
set -eu
[ $# = 2 ] || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$here/mkinitramfs.sh" "$2" "$work/parity.cpio.gz"
timeout 900 qemu-system-aarch64 -M virt,virtualization=on,gic-version=3 \
	-cpu "${CPU:-neoverse-n1}" -smp "${SMP:-2}" -m 1024 -nic none -nographic -no-reboot \
	-kernel "$1" -initrd "$work/parity.cpio.gz" \
	-append 'console=ttyAMA0 quiet panic=-1' < /dev/null > "$work/console.log"
"$here/between.sh" < "$work/console.log" > "$work/expected.txt"
mv "$work/expected.txt" "$here/expected.txt"
