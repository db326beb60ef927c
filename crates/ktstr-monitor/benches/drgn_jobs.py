# Times drgn at the jobs of the monitor's benchmark: drgn_jobs.py VMCORE VMLINUX VMCOREINFO OUT
# Each job's result is checked for plausibility; what is written is the best time in nanoseconds.
import json
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tests/it/guest"))

from drgn_kernel import open_kernel, read_dsqs, read_log, read_maps, read_programs, read_runqueues, read_tasks

core, vmlinux, note, out_path = sys.argv[1:]


def best(job, at_least, seconds=1.5):
    times, end = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter_ns()
        count = len(job())
        times.append(time.perf_counter_ns() - start)
        assert count >= at_least, f"{job} found {count}"
    return min(times)


start = time.perf_counter_ns()
prog, types = open_kernel(core, vmlinux, note)
# Types are looked up when first asked for.
read_runqueues(prog)
times = {"found": time.perf_counter_ns() - start, "types": types}
times["runqueues"] = best(lambda: read_runqueues(prog), 1)
times["tasks"] = best(lambda: read_tasks(prog), 10)
times["maps"] = best(lambda: read_maps(prog), 1)
times["programs"] = best(lambda: read_programs(prog), 1)
times["dispatch queues"] = best(lambda: read_dsqs(prog), 1)
times["dmesg"] = best(lambda: read_log(prog), 10)
if types == "DWARF":
    times["symbol by name"] = best(lambda: [prog.symbol("map_idr").address], 1)
with open(out_path, "w") as out:
    json.dump(times, out)
