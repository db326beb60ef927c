# What drgn reads out of a dump, as JSON: referee.py VMCORE VMLINUX VMCOREINFO OUT
import json
import sys

from drgn_kernel import (open_kernel, read_domains, read_dsqs, read_log, read_map_values, read_maps, read_programs,
                         read_runqueues, read_tasks)

core, vmlinux, note, out_path = sys.argv[1:]
prog, types = open_kernel(core, vmlinux, note)
report = {
    "types": types,
    "runqueues": read_runqueues(prog),
    "domains": read_domains(prog),
    "dsqs": read_dsqs(prog),
    "tasks": read_tasks(prog),
    "maps": read_maps(prog),
    "values": read_map_values(prog),
    "programs": read_programs(prog),
    "log": read_log(prog),
}
with open(out_path, "w") as out:
    json.dump(report, out)
