#!/bin/busybox sh
# The test machine's first program: finds the disk with the root file system and changes to it.
# Not to a copy in memory: pivot_root, which runtimes need, does not work on an initramfs.
PATH=/bin
alias mount="busybox mount" umount="busybox umount" modprobe="busybox modprobe"

mount -t devtmpfs dev /dev
mount -t proc proc /proc
modprobe -a virtio_pci virtio_blk virtio_console
mount -t ext4 /dev/vda /root
mount -o move /dev /root/dev
init=/sbin/init
busybox grep -qw lighter.init=systemd /proc/cmdline && init=/lib/systemd/systemd
umount /proc
exec busybox switch_root /root $init
