#!/bin/busybox sh
# PID 1 of the guest whose books are judged.
/bin/busybox --install -s /bin
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t cgroup2 cgroup /sys/fs/cgroup
load >/dev/ttyS0 2>&1 &
sleep 2
echo 0 >/sys/devices/system/cpu/cpu3/online
sleep 2
echo "@@READY" >/dev/ttyS1
exec sleep 100000
