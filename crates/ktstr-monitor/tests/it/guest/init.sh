#!/bin/busybox sh
# PID 1 of the guest that the monitor reads: makes state of every kind, reports it on the second serial line, waits to be
# frozen, and reports what may have grown meanwhile.
/bin/busybox --install -s /bin
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t debugfs debug /sys/kernel/debug
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup /sys/fs/cgroup
stty -F /dev/ttyS1 raw
exec 3>/dev/ttyS1 4</dev/ttyS2
fact() {
	echo "@@FACT $1" >&3
	shift
	"$@" >&3 2>/dev/null
	echo "@@END" >&3
}

bpftool map create /sys/fs/bpf/t_hash type hash key 4 value 8 entries 64 name t_hash
bpftool map create /sys/fs/bpf/t_lru type lru_hash key 4 value 8 entries 64 name t_lru
bpftool map create /sys/fs/bpf/t_nhash type hash key 4 value 8 entries 64 name t_nhash flags 1
bpftool map create /sys/fs/bpf/t_phash type percpu_hash key 4 value 8 entries 64 name t_phash
bpftool map create /sys/fs/bpf/t_array type array key 4 value 12 entries 5 name t_array
bpftool map create /sys/fs/bpf/t_parray type percpu_array key 4 value 8 entries 3 name t_parray
for i in 1 2 3 4 5 6 7 8 9; do
	for m in t_hash t_lru t_nhash; do
		bpftool map update pinned /sys/fs/bpf/$m key hex 0$i 00 00 00 value hex $i$i 01 02 03 04 05 06 07
	done
done
for i in 0 1 2 3 4; do
	bpftool map update pinned /sys/fs/bpf/t_array key hex 0$i 00 00 00 value hex a$i 01 02 03 04 05 06 07 08 09 0a 0b
done
for i in 0 1 2; do
	for m in t_parray t_phash; do
		bpftool map update pinned /sys/fs/bpf/$m key hex 0$i 00 00 00 value hex b$i 01 02 03 04 05 06 07
	done
done
echo 1 >/proc/sys/kernel/bpf_stats_enabled
echo 1 >/proc/sys/kernel/sched_schedstats
# Without it /proc/kallsyms keeps programs to itself.
echo 1 >/proc/sys/net/core/bpf_jit_kallsyms
# Arena and ring buffer need more than bpftool offers.
maps >/dev/ttyS0 2>&1 &

mkdir /sys/fs/cgroup/alpha /sys/fs/cgroup/alpha/beta
sleep 1000 &
echo $! >/sys/fs/cgroup/alpha/beta/cgroup.procs
sleep 1001 &
kill -STOP $!
sleep 1002 &
renice -n 7 -p $!

scx-fixture >/dev/ttyS0 2>&1 &
i=0
while [ "$(cat /sys/kernel/sched_ext/state)" != enabled ] && [ $i -lt 2000 ]; do
	usleep 100000
	i=$((i + 1))
done
# Two tasks that want CPU 0 and one that wants CPU 1, for ever.
taskset 1 sh -c 'while :; do :; done' &
taskset 1 sh -c 'while :; do :; done' &
taskset 2 sh -c 'while :; do :; done' &
usleep 300000
echo "<4>monitor says hello" >/dev/kmsg

fact kallsyms grep -E ' (_text|init_task|prb|runqueues|scx_exit_kind|init_top_pgt|map_idr|linux_banner)$' /proc/kallsyms
fact bpf_symbols grep -F '[bpf]' /proc/kallsyms
fact notes sh -c 'hexdump -v -e "1/1 \"%02x\"" /sys/kernel/notes'
fact banner cat /proc/version
fact iomem cat /proc/iomem
fact scx sh -c 'for f in /sys/kernel/sched_ext/* /sys/kernel/sched_ext/root/*; do [ -f $f ] && echo $(basename $f) $(cat $f); done'
fact maps bpftool -j map show
fact progs bpftool -j prog show
for m in t_hash t_lru t_nhash t_phash t_array t_parray; do
	fact dump_$m bpftool -j map dump pinned /sys/fs/bpf/$m
done
for m in t_arrays t_hashes t_trie t_lruphash t_stacks; do
	fact dump_$m bpftool -j map dump name $m
done
rodata=$(bpftool -j map show | tr '{' '\n' | sed -n 's/.*"id":\([0-9]*\),.*rodata.*/\1/p')
fact rodata bpftool -j map dump id $rodata
fact cgroups sh -c 'for t in /proc/[0-9]*; do echo $(basename $t) $(cat $t/cgroup); done'
fact kmsg timeout 2 cat /dev/kmsg
counters() {
	fact $1_tasks sh -c 'for t in /proc/[0-9]*/task/*; do cat $t/stat; done'
	fact $1_schedstat cat /proc/schedstat
	fact $1_stat cat /proc/stat
	bss=$(bpftool -j map show | tr '{' '\n' | sed -n 's/.*"id":\([0-9]*\),.*\.bss".*/\1/p')
	fact $1_bss bpftool -j map dump id $bss
}
counters before
echo "@@READY" >&3
read -r _ <&4
counters after
echo "@@DONE" >&3
exec sleep 100000
