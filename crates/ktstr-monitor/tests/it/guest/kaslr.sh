#!/bin/busybox sh
# Says where the kernel is, and waits.
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox stty -F /dev/ttyS1 raw
exec 3>/dev/ttyS1
echo "@@FACT kallsyms" >&3
/bin/busybox grep -E ' (_text|init_task|__per_cpu_offset)$' /proc/kallsyms >&3
echo "@@END" >&3
echo "@@FACT iomem" >&3
/bin/busybox grep Kernel /proc/iomem >&3
echo "@@END" >&3
echo "@@READY" >&3
exec /bin/busybox sleep 100000
