#!/bin/sh
# Runs in the test machine, started by its init: sets the machine up as one with cgroup v2
# alone, runs the command, answers its exit status on the second serial port, powers off.

if [ ! -d /run/systemd/system ]; then
    mount -t proc proc /proc
    mount -t sysfs sys /sys
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mkdir -p /dev/pts /dev/shm /dev/mqueue
    mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
    mount -t tmpfs -o mode=1777 shm /dev/shm
    mount -t mqueue mqueue /dev/mqueue
    mount -t tmpfs -o mode=755 run /run
fi
modprobe overlay
hostname lighter-vm
ip link set lo up

sh /lighter/command
echo $? >/dev/ttyS1
busybox poweroff -f
