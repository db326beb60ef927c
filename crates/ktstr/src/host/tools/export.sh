#!/bin/sh
# Runs one test of ktstr on this machine itself, without a VM: @TITLE@
# It needs root, leaves a running scheduler alone, and takes everything back at its end.
# --extract DIR unpacks without running; --any-topology runs on other CPUs than the test's.
set -eu
NAME=@NAME@ SCHEDULER=@SCHEDULER@ CPUS=@CPUS@ LLCS=@LLCS@ NODES=@NODES@ THREADS=@THREADS@ PAYLOAD=@PAYLOAD@
ROOT=@ROOT@ EXPECTS_FAILURE=@EXPECTS_FAILURE@ ALLOW_INCONCLUSIVE=@ALLOW_INCONCLUSIVE@
# What only the host of a VM can judge: with any of it, a pass here is inconclusive. And what it does beside.
UNJUDGED=@UNJUDGED@ LEFT_OUT=@LEFT_OUT@
REFUSED=65

say() { echo "ktstr: $*" >&2; }
refuse() { say "refused: $*"; exit $REFUSED; }
unpack() { tail -n "+$PAYLOAD" "$0" | xz -dc | tar -x -C "$1"; }

any_topology=
while [ $# -gt 0 ]; do
  case "$1" in
    --extract) [ $# -gt 1 ] || refuse "--extract needs a directory"; mkdir -p "$2"; unpack "$2"; exit 0 ;;
    --any-topology) any_topology=1; shift ;;
    -h|--help) sed -n '2,4s/^# //p' "$0"; exit 0 ;;
    *) refuse "unknown argument '$1'; there are --extract DIR and --any-topology" ;;
  esac
done

command -v xz >/dev/null || refuse "xz is not installed"
[ "$(id -u)" = 0 ] || refuse "root is needed, for cgroups and schedulers"
[ -f /sys/fs/cgroup/cgroup.controllers ] || refuse "cgroup v2 is not mounted at /sys/fs/cgroup"
STATE=/sys/kernel/sched_ext/state
if [ -n "$SCHEDULER" ]; then
  [ -r $STATE ] || refuse "this kernel has no sched_ext ($STATE is missing); boot one with CONFIG_SCHED_CLASS_EXT=y"
fi
if [ -r $STATE ] && [ "$(cat $STATE)" != disabled ]; then
  refuse "scheduler '$(cat /sys/kernel/sched_ext/root/ops 2>/dev/null || echo unknown)' is running here and is left alone; stop it first"
fi

for arg in @KARGS@; do
  case " $(cat /proc/cmdline) " in
    *" $arg "*) ;;
    *) refuse "this kernel was booted without '$arg', which the scheduler needs" ;;
  esac
done

# The test places its workers by CPU number, so the whole shape must be the one it was written for.
cpu_dirs() { ls -d /sys/devices/system/cpu/cpu[0-9]*; }
distinct() { for dir in $(cpu_dirs); do cat "$dir/$1" 2>/dev/null || true; done | sort -u | grep -c . || true; }
cpus=$(cpu_dirs | grep -c .)
llcs=$(distinct cache/index3/shared_cpu_list)
cores=$(distinct topology/thread_siblings_list)
nodes=$(ls -d /sys/devices/system/node/node[0-9]* 2>/dev/null | grep -c . || true)
[ "$llcs" != 0 ] || llcs=1
[ "$nodes" != 0 ] || nodes=1
threads=$((cpus / (cores > 0 ? cores : cpus)))
found="$cpus CPUs, $llcs LLCs, $nodes nodes, $threads threads per core"
needed="$CPUS CPUs, $LLCS LLCs, $NODES nodes, $THREADS threads per core"
if [ "$found" != "$needed" ]; then
  [ -n "$any_topology" ] || refuse "this machine has $found; the test needs $needed (--any-topology runs it all the same)"
  say "warning: this machine has $found; the test was written for $needed"
fi

dir=$(mktemp -d) scheduler= linked= root_was_there=
[ ! -d "$ROOT" ] || root_was_there=1
cleanup() {
  trap - EXIT INT TERM HUP
  if [ -n "$scheduler" ]; then kill "$scheduler" 2>/dev/null || true; wait "$scheduler" 2>/dev/null || true; fi
  # What somebody else made is left to them; the test removes its own cgroups in it.
  [ -n "$root_was_there" ] || find "$ROOT" -depth -type d -exec rmdir {} \; 2>/dev/null || true
  if [ -f "$dir/sysctls" ]; then while read -r path value; do echo "$value" >"$path" || true; done <"$dir/sysctls"; fi
  [ -z "$linked" ] || rm -f /include-files
  rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP
unpack "$dir"
# Libraries that this machine lacks; its own C library stays.
export LD_LIBRARY_PATH="$dir/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
if [ -d "$dir/include" ]; then
  export PATH="$dir/include:$PATH"
  if [ ! -e /include-files ] && ln -s "$dir/include" /include-files 2>/dev/null; then linked=1; fi
fi
set_sysctls() {
  while [ $# -gt 1 ]; do
    [ -w "/proc/sys/$1" ] || refuse "this kernel has no sysctl $1, which the scheduler needs"
    echo "/proc/sys/$1 $(cat "/proc/sys/$1")" >>"$dir/sysctls"
    echo "$2" >"/proc/sys/$1" || refuse "the sysctl $1 does not take '$2'"
    shift 2
  done
}
set_sysctls @SYSCTLS@

if [ -n "$SCHEDULER" ]; then
  say "starting $SCHEDULER"
  "$dir/bin/scheduler" @ARGS@ >"$dir/scheduler.log" 2>&1 &
  scheduler=$!
  left=300
  while [ "$(cat $STATE)" != enabled ]; do
    left=$((left - 1))
    if [ $left = 0 ] || ! kill -0 "$scheduler" 2>/dev/null; then
      cat "$dir/scheduler.log" >&2
      say "failed: $SCHEDULER did not attach"
      exit 1
    fi
    sleep 0.1
  done
fi
[ -z "$LEFT_OUT" ] || say "not done here: $LEFT_OUT"
say "running $NAME"
status=0
KTSTR_TEST_PLAN="$(cat "$dir/plan.json")" KTSTR_SCHED_PID="$scheduler" "$dir/bin/test" --ktstr-guest-test "$NAME" || status=$?
if [ "$status" != 0 ] && [ -n "$scheduler" ]; then tail -n 100 "$dir/scheduler.log" >&2; fi
if [ "$status" = 2 ] && [ -n "$ALLOW_INCONCLUSIVE" ]; then
  say "inconclusive, which this test allows"
  status=0
fi
# A failure that is wanted is judged by the host, too: what it was, and that it was the wanted one.
if [ -n "$UNJUDGED" ] && { [ "$status" = 0 ] || { [ "$status" = 1 ] && [ -n "$EXPECTS_FAILURE" ]; }; }; then
  say "inconclusive: the test itself ended with $status; unjudged on this machine: $UNJUDGED"
  status=2
fi
exit "$status"
