# A kernel's state as drgn sees it, in the shape that the monitor's tests and benchmarks compare.
import btf_types
from drgn import Object, Program, cast, container_of
from drgn.helpers.linux.bpf import bpf_map_for_each, bpf_prog_for_each
from drgn.helpers.linux.cgroup import cgroup_path
from drgn.helpers.linux.cpumask import for_each_cpu, for_each_online_cpu, for_each_possible_cpu
from drgn.helpers.linux.list import hlist_for_each_entry, list_for_each_entry
from drgn.helpers.linux.percpu import per_cpu, per_cpu_ptr
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.printk import get_printk_records
from drgn.helpers.linux.sched import task_cpu, task_state_to_char


def jited(bpf):
    """Machine code of all functions, as the kernel itself reports it."""
    functions = int(bpf.aux.func_cnt)
    if functions == 0:
        return int(bpf.jited_len)
    return sum(int(bpf.aux.func[at].jited_len) for at in range(functions))


def open_kernel(core, vmlinux, note_path):
    """The program, and where its types are from: DWARF if vmlinux has it, else BTF."""
    with open(note_path, "rb") as file:
        note = file.read()
    prog = Program(vmcoreinfo=note)
    prog.set_core_dump(core)
    with open(vmlinux, "rb") as file:
        has_dwarf = b"\0.debug_info\0" in file.read()
    if has_dwarf:
        prog.load_debug_info([vmlinux], default=False)
        return prog, "DWARF"
    btf_types.load(prog, vmlinux, note)
    return prog, "BTF"


def read_runqueues(prog):
    queues = []
    for cpu in for_each_online_cpu(prog):
        rq = per_cpu(prog["runqueues"], cpu)
        queues.append({
            "cpu": cpu,
            "nr_running": int(rq.nr_running),
            "clock": int(rq.clock),
            "nr_switches": int(rq.nr_switches),
            "curr": int(rq.curr.pid),
            "scx_nr_running": int(rq.scx.nr_running),
            "local_dsq": int(rq.scx.local_dsq.nr),
            "scx_flags": int(rq.scx.flags),
        })
    return queues


def read_domains(prog):
    domains = []
    # CONFIG_SCHED_DEBUG up to 6.14.
    domain_type = prog.type("struct sched_domain")
    has_name, has_span = domain_type.has_member("name"), domain_type.has_member("span")
    for cpu in for_each_online_cpu(prog):
        domain, depth = per_cpu(prog["runqueues"], cpu).sd, 0
        while domain:
            # From 7.1 on the mask lies behind the structure, and no member names it.
            at = int(domain.span.address_of_()) if has_span else int(domain) + domain_type.size
            span = Object(prog, "struct cpumask", address=at)
            domains.append({
                "cpu": cpu,
                "depth": depth,
                "name": domain.name.string_().decode() if has_name else None,
                "level": int(domain.level),
                "flags": int(domain.flags),
                "span": list(for_each_cpu(span)),
                "imbalance_pct": int(domain.imbalance_pct),
                "balance_interval": int(domain.balance_interval),
            })
            domain, depth = domain.parent, depth + 1
    return domains


def read_dsq(dsq, kind):
    tasks = []
    for task in list_for_each_entry("struct task_struct", dsq.list.address_of_(), "scx.dsq_list.node"):
        if not int(task.scx.dsq_list.flags) & 1:
            tasks.append([int(task.pid), int(task.scx.dsq_vtime), int(task.scx.slice)])
    return {"kind": kind, "id": int(dsq.id), "nr": int(dsq.nr), "tasks": tasks}


def read_user_dsqs(prog, table):
    dsqs = []
    while table:
        buckets = int(table.buckets.address_of_())
        for number in range(int(table.size)):
            node = prog.read_u64(buckets + number * 8) & ~1
            while node and not node & 1:
                head = Object(prog, "struct rhash_head *", value=node)
                dsqs.append(read_dsq(container_of(head, "struct scx_dispatch_q", "hash_node"), "user"))
                node = int(head.next)
        table = table.future_tbl
    return dsqs


def read_dsqs(prog):
    dsqs = []
    cpus = list(for_each_online_cpu(prog))
    for cpu in cpus:
        scx = per_cpu(prog["runqueues"], cpu).scx
        dsqs.append(read_dsq(scx.local_dsq, {"local": {"cpu": cpu}}))
        if prog.type("struct scx_rq").has_member("reject_dsq"):
            dsqs.append(read_dsq(scx.reject_dsq, {"reject": {"cpu": cpu}}))
            dsqs.append(read_dsq(scx.rescue.dsq, {"rescue": {"cpu": cpu}}))
    nodes = range(int(prog["nr_node_ids"]))
    try:
        schedulers = list(list_for_each_entry("struct scx_sched", prog["scx_sched_all"].address_of_(), "all"))
    except KeyError:
        dsqs += [read_dsq(prog["global_dsqs"][node], {"global": {"node": node}}) for node in nodes]
        return dsqs + read_user_dsqs(prog, prog["dsq_hash"].tbl)
    for sched in schedulers:
        dsqs += [read_dsq(sched.pnode[node].global_dsq, {"global": {"node": node}}) for node in nodes]
        dsqs += [read_dsq(per_cpu_ptr(sched.pcpu, cpu).bypass_dsq, {"bypass": {"cpu": cpu}}) for cpu in cpus]
        dsqs += read_user_dsqs(prog, sched.dsq_hash.tbl)
    return dsqs


def read_tasks(prog):
    tasks = {}
    for task in for_each_task(prog):
        tasks[str(int(task.pid))] = {
            "comm": task.comm.string_().decode(),
            "state": task_state_to_char(task),
            "cpu": int(task_cpu(task)),
            "tgid": int(task.tgid),
            "cgroup": cgroup_path(task.cgroups.dfl_cgrp).decode(),
            "runtime": int(task.se.sum_exec_runtime),
            "prio": int(task.prio),
            "policy": int(task.policy),
            "on_cpu": bool(task.on_cpu),
            "on_rq": bool(task.on_rq),
            "scx_weight": int(task.scx.weight),
            "scx_slice": int(task.scx.slice),
            "scx_flags": int(task.scx.flags),
            "scx_ops_state": int(task.scx.ops_state.counter),
            "scx_dsq": int(task.scx.dsq.id) if task.scx.dsq else None,
        }
    return tasks


def map_kinds(prog):
    kinds = {}
    for name, value in prog.type("enum bpf_map_type").enumerators:
        if not name.endswith("_DEPRECATED"):
            kinds.setdefault(int(value), name.removeprefix("BPF_MAP_TYPE_").lower())
    return kinds


def read_maps(prog):
    kinds = map_kinds(prog)
    return {
        str(int(map.id)): {"name": map.name.string_().decode(), "type": kinds[int(map.map_type)], "kva": int(map)}
        for map in bpf_map_for_each(prog)
    }


def read_programs(prog):
    return {
        str(int(bpf.aux.id)): {"name": bpf.aux.name.string_().decode(), "tag": bytes(bpf.tag).hex(),
                               "jited": jited(bpf), "verified": int(bpf.aux.verified_insns)}
        for bpf in bpf_prog_for_each(prog)
    }


def read_array(prog, map):
    array = cast("struct bpf_array *", map)
    start = int(array.value.address_of_())
    for index in range(int(map.max_entries)):
        yield index.to_bytes(4, "little"), start + index * int(array.elem_size)


def read_percpu_array(prog, map):
    table = int(cast("struct bpf_array *", map).pptrs.address_of_())
    for index in range(int(map.max_entries)):
        yield index.to_bytes(4, "little"), prog.read_u64(table + index * 8)


def read_hash(prog, map):
    table = cast("struct bpf_htab *", map)
    key_size = int(map.key_size)
    is_percpu = "percpu" in map_kinds(prog)[int(map.map_type)]
    for number in range(int(table.n_buckets)):
        node = table.buckets[number].head.first
        while node and not int(node) & 1:
            element = container_of(node, "struct htab_elem", "hash_node")
            at = int(element.key.address_of_())
            value = at + (key_size + 7) // 8 * 8
            if is_percpu:
                value = prog.read_u64(value)
            yield prog.read(at, key_size), value
            node = node.next


def read_storage(prog, map):
    storage = cast("struct bpf_local_storage_map *", map)
    for number in range(1 << int(storage.bucket_log)):
        head = storage.buckets[number].list.address_of_()
        for element in hlist_for_each_entry("struct bpf_local_storage_elem", head, "map_node"):
            yield int(element.local_storage.owner).to_bytes(8, "little"), int(element.sdata.data.address_of_())


def read_queue(prog, map):
    queue = cast("struct bpf_queue_stack *", map)
    head, tail, size = int(queue.head), int(queue.tail), int(queue.size)
    start, value_size = int(queue.elements.address_of_()), int(map.value_size)
    places = [(tail + number) % size for number in range((head - tail) % size)]
    if map_kinds(prog)[int(map.map_type)] == "stack":
        places.reverse()
    for number, place in enumerate(places):
        yield number.to_bytes(8, "little"), start + place * value_size


def read_trie(prog, map):
    trie = cast("struct lpm_trie *", map)
    size = int(trie.data_size)
    nodes = [trie.root]
    while nodes:
        node = nodes.pop()
        if not node:
            continue
        data = int(node.data.address_of_())
        if not int(node.flags) & 1:
            yield int(node.prefixlen).to_bytes(4, "little") + prog.read(data, size), data + size
        nodes += [node.child[0], node.child[1]]


READERS = {
    "array": read_array,
    "percpu_array": read_percpu_array,
    "hash": read_hash,
    "lru_hash": read_hash,
    "percpu_hash": read_hash,
    "lru_percpu_hash": read_hash,
    "task_storage": read_storage,
    "queue": read_queue,
    "stack": read_queue,
    "lpm_trie": read_trie,
}


def read_map_values(prog):
    """Raw values by map and key, hex; of a per-CPU map one after the other."""
    kinds = map_kinds(prog)
    cpus = list(for_each_possible_cpu(prog))
    offsets = [int(prog["__per_cpu_offset"][cpu]) for cpu in cpus]
    values = {}
    for map in bpf_map_for_each(prog):
        kind = kinds[int(map.map_type)]
        if kind not in READERS:
            continue
        size = int(map.value_size)
        entries = {}
        for key, at in READERS[kind](prog, map):
            places = [(at + offset) % (1 << 64) for offset in offsets] if "percpu" in kind else [at]
            entries[key.hex()] = "".join(prog.read(place, size).hex() for place in places)
        values[str(int(map.id))] = entries
    return values


def read_log(prog):
    return [[r.seq, r.timestamp, r.level, r.text.decode()] for r in get_printk_records(prog)]
