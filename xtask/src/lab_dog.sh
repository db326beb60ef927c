# Runs on every CPU of the lab. The emulator may lose a CPU's timer around a nested exit: with the periodic tick that stands
# still, nothing is scheduled there any more, and what waits for it hangs until the lab's deadline.
ticks() {
	/bin/busybox sed -n 's/^ *LOC: *\([0-9 ]*\).*/\1/p' /proc/interrupts
}
old=$(ticks)
while /bin/busybox sleep 30; do
	new=$(ticks)
	set -- $new
	cpu=0
	for was in $old; do
		if [ "$was" = "$1" ]; then
			echo "lab: CPU $cpu lost its timer" >/dev/console
			/bin/busybox poweroff -f
		fi
		cpu=$((cpu + 1))
		shift
	done
	old=$new
done
