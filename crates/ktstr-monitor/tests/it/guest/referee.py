# What drgn reads out of a dump, as JSON: referee.py VMCORE VMLINUX VMCOREINFO OUT
import json
import sys

from drgn import Program, cast
from drgn.helpers.linux.bpf import bpf_map_for_each
from drgn.helpers.linux.cgroup import cgroup_path
from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.percpu import per_cpu
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.printk import get_printk_records
from drgn.helpers.linux.sched import task_cpu, task_state_to_char

core, vmlinux, note, out_path = sys.argv[1:]
with open(note, "rb") as file:
    prog = Program(vmcoreinfo=file.read())
prog.set_core_dump(core)
prog.load_debug_info([vmlinux], default=False)

runqueues = []
for cpu in for_each_online_cpu(prog):
    rq = per_cpu(prog["runqueues"], cpu)
    runqueues.append({
        "cpu": cpu,
        "nr_running": int(rq.nr_running),
        "clock": int(rq.clock),
        "nr_switches": int(rq.nr_switches),
        "curr": int(rq.curr.pid),
        "scx_nr_running": int(rq.scx.nr_running),
        "local_dsq": int(rq.scx.local_dsq.nr),
        "scx_flags": int(rq.scx.flags),
    })

tasks = {}
for task in for_each_task(prog):
    tasks[str(int(task.pid))] = {
        "comm": task.comm.string_().decode(),
        "state": task_state_to_char(task),
        "cpu": int(task_cpu(task)),
        "tgid": int(task.tgid),
        "cgroup": cgroup_path(task.cgroups.dfl_cgrp).decode(),
        "runtime": int(task.se.sum_exec_runtime),
    }

maps = {}
array = []
names = {int(value): name for name, value in reversed(prog.type("enum bpf_map_type").enumerators)}
for map in bpf_map_for_each(prog):
    name = map.name.string_().decode()
    kind = names[int(map.map_type)].removeprefix("BPF_MAP_TYPE_").lower()
    maps[str(int(map.id))] = {"name": name, "type": kind, "kva": int(map)}
    if name == "t_array":
        holder = cast("struct bpf_array *", map)
        start = int(holder.value.address_of_())
        for index in range(int(map.max_entries)):
            raw = prog.read(start + index * int(holder.elem_size), int(map.value_size))
            array.append(raw.hex())

log = [[r.seq, r.timestamp, r.level, r.text.decode()] for r in get_printk_records(prog)]

with open(out_path, "w") as out:
    json.dump({"runqueues": runqueues, "tasks": tasks, "maps": maps, "array": array, "log": log}, out)
