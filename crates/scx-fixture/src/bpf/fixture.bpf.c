/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A fair global-vtime scheduler whose faults can be switched on: by the loader's flags, or later by writing `faults`
 * in .bss from outside.
 */
#include "scx.h"

char _license[] SEC("license") = "GPL";

#define SHARED_DSQ 0
#define STARVED_DSQ 1
#define RACED_DSQ 2
#define CONFINED_DSQ 3
#define MAX_CPUS 256
/* Reads of the clock in one tick at most; more than 10 ms on any machine. */
#define MAX_SPINS 1000000

/* Known at load time. */
const volatile u32 fail_verify;
const volatile s32 own_tgid;
const volatile u32 nr_cpus = 1;
const volatile u64 fault_after_ns;
/* Share of every task's time that the scheduler takes for itself, below 100. */
const volatile u32 slow_pct;
/* User tasks run on these CPUs only, a bit each, and leave the others idle; 0 is all of them. */
const volatile u64 serve_mask;
/* User tasks wait in a queue of their own whose length is counted without a lock: so many steps lie between read and write. */
const volatile u32 race_window;
/* Starved tasks are served this rarely. */
const volatile u64 starve_interval_ns = 1500000000ULL;
const volatile char error_text[64] = "fixture error";

struct fault_switches {
	u32 stall;
	u32 starve_pct;
	u32 error;
	u32 ignore_cpusets;
};

struct counters {
	u64 enqueued;
	u64 direct;
	u64 dispatched;
	u64 starved;
	u64 stalled;
	u64 errors;
	u64 cpusets_ignored;
	u64 raced;
};

struct exit_record {
	u32 kind;
	s64 exit_code;
	char reason[64];
	char msg[256];
};

struct fault_switches faults;
struct counters stats;
struct exit_record exit_info;
u64 vtime_now;
u64 started_ns;
u64 starved_served_ns;
/* Tasks in RACED_DSQ. Those who add to it do not know of each other. */
volatile u64 raced_waiting;
s32 stalled_pid;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} cpu_dispatches SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, s32);
	__type(value, u64);
} task_vtime SEC(".maps");

struct task_ctx {
	u64 enqueued_ns;
	u64 ticked_ns;
	u64 runs;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct task_ctx);
} task_ctxs SEC(".maps");

/* What runs where; the loader makes it as large as the machine. */
struct cpu_slot {
	s32 pid;
	u32 weight;
	u64 since_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct cpu_slot);
} cpu_slots SEC(".maps");

/* How often each of the last wakers woke somebody. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 256);
	__type(key, s32);
	__type(value, u64);
} wakers SEC(".maps");

/* Time used, by weight. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 64);
	__type(key, u32);
	__type(value, u64);
} weight_used SEC(".maps");

static __always_inline bool before(u64 a, u64 b)
{
	return (s64)(a - b) < 0;
}

static bool faults_are_due(void)
{
	return bpf_ktime_get_ns() - started_ns >= fault_after_ns;
}

/* Ordinary user tasks only: the machine and the loader must live on. */
static bool is_victim(const struct task_struct *p)
{
	return !(p->flags & PF_KTHREAD) && p->pid != 1 && p->tgid != own_tgid && faults_are_due();
}

static bool is_starved(const struct task_struct *p)
{
	/* Neighbouring pids fall on different sides. */
	return faults.starve_pct && (u32)p->pid * 37 % 100 < faults.starve_pct && is_victim(p);
}

static bool is_raced(const struct task_struct *p)
{
	return race_window && is_victim(p);
}

static bool is_confined(const struct task_struct *p)
{
	return serve_mask && is_victim(p);
}

static bool serves(u32 cpu)
{
	return cpu < 64 && (serve_mask >> cpu & 1);
}

/* One of the CPUs that serve may sleep. */
static void wake_a_server(void)
{
	u32 cpu;

	bpf_for(cpu, 0, nr_cpus) {
		if (serves(cpu))
			scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
	}
}

/* One more waits, unless another CPU does the same at this moment: then one of the two is forgotten. */
static void count_raced(void)
{
	u64 seen = raced_waiting;
	u32 step;

	bpf_for(step, 1, race_window) {
		barrier_var(seen);
	}
	raced_waiting = seen + 1;
	__sync_fetch_and_add(&stats.raced, 1);
}

/* Each task is counted before it is queued, and queued for longer than it is counted: a queue that is longer than its count
 * has lost one.
 */
static bool dispatch_raced(void)
{
	s32 queued = scx_bpf_dsq_nr_queued(RACED_DSQ);
	u64 waiting = raced_waiting;

	if (queued > 0 && waiting < queued) {
		static char format[] = "%d tasks are queued and %d counted";
		unsigned long long args[2] = { queued, waiting };

		scx_bpf_error_bstr(format, args, sizeof(args));
		return false;
	}
	if (!move_to_local(RACED_DSQ))
		return false;
	__sync_fetch_and_sub(&raced_waiting, 1);
	return true;
}

static bool is_stalled(const struct task_struct *p)
{
	if (!faults.stall || !is_victim(p))
		return false;
	if (!stalled_pid)
		stalled_pid = p->pid;
	return stalled_pid == p->pid;
}

SEC("struct_ops/fixture_select_cpu")
s32 BPF_PROG(fixture_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	bool idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &idle);
	s32 waker = bpf_get_current_pid_tgid();
	u64 one = 1, *wakeups = bpf_map_lookup_elem(&wakers, &waker);

	if (wakeups)
		__sync_fetch_and_add(wakeups, 1);
	else
		bpf_map_update_elem(&wakers, &waker, &one, BPF_NOEXIST);

	if (idle && !is_raced(p) && !is_confined(p) && !is_stalled(p) && !is_starved(p) && !(faults.ignore_cpusets && is_victim(p))) {
		__sync_fetch_and_add(&stats.direct, 1);
		insert(p, SCX_DSQ_LOCAL, SCX_SLICE_DFL, 0);
	}
	return cpu;
}

/* Puts a task on a CPU that its cpuset forbids, if there is one; the kernel ejects a scheduler that does. */
static bool misplace(struct task_struct *p, u64 enq_flags)
{
	u32 cpu;

	bpf_for(cpu, 0, nr_cpus) {
		if (cpu < MAX_CPUS && !bpf_cpumask_test_cpu(cpu, p->cpus_ptr)) {
			__sync_fetch_and_add(&stats.cpusets_ignored, 1);
			insert(p, SCX_DSQ_LOCAL_ON | cpu, SCX_SLICE_DFL, enq_flags);
			return true;
		}
	}
	return false;
}

SEC("struct_ops/fixture_enqueue")
void BPF_PROG(fixture_enqueue, struct task_struct *p, u64 enq_flags)
{
	struct task_ctx *task = bpf_task_storage_get(&task_ctxs, (void *)p, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	u64 vtime = p->scx.dsq_vtime;

	__sync_fetch_and_add(&stats.enqueued, 1);
	if (task)
		task->enqueued_ns = bpf_ktime_get_ns();
	if (faults.error && faults_are_due()) {
		static char format[] = "%s";
		unsigned long long args[1] = { (unsigned long long)(void *)error_text };

		__sync_fetch_and_add(&stats.errors, 1);
		scx_bpf_error_bstr(format, args, sizeof(args));
	}
	if (is_stalled(p)) {
		/* Never dispatched: the kernel's watchdog finds it. */
		__sync_fetch_and_add(&stats.stalled, 1);
		return;
	}
	if (faults.ignore_cpusets && is_victim(p) && misplace(p, enq_flags))
		return;
	if (is_confined(p)) {
		insert(p, CONFINED_DSQ, SCX_SLICE_DFL, enq_flags);
		wake_a_server();
		return;
	}
	if (is_raced(p)) {
		count_raced();
		insert(p, RACED_DSQ, SCX_SLICE_DFL, enq_flags);
		return;
	}
	if (is_starved(p)) {
		__sync_fetch_and_add(&stats.starved, 1);
		insert(p, STARVED_DSQ, SCX_SLICE_DFL, enq_flags);
		return;
	}
	/* A task that slept long may be ahead by one slice, not by all it slept. */
	if (before(vtime, vtime_now - SCX_SLICE_DFL))
		vtime = vtime_now - SCX_SLICE_DFL;
	insert_vtime(p, SHARED_DSQ, SCX_SLICE_DFL, vtime, enq_flags);
}

SEC("struct_ops/fixture_dispatch")
void BPF_PROG(fixture_dispatch, s32 cpu, struct task_struct *prev)
{
	u64 now = bpf_ktime_get_ns();
	u32 zero = 0;
	u64 *count = bpf_map_lookup_elem(&cpu_dispatches, &zero);

	if (fail_verify) {
		/* The null check is missing on purpose. */
		u64 *unchecked = bpf_map_lookup_elem(&task_vtime, &cpu);
		*unchecked = now;
	}
	if (count)
		(*count)++;
	__sync_fetch_and_add(&stats.dispatched, 1);
	if ((!faults.starve_pct || now - starved_served_ns >= starve_interval_ns) && move_to_local(STARVED_DSQ)) {
		starved_served_ns = now;
		return;
	}
	if (race_window && dispatch_raced())
		return;
	if (serves(cpu) && move_to_local(CONFINED_DSQ))
		return;
	move_to_local(SHARED_DSQ);
}

/* Wastes its share of the time since the last tick, the waste included. */
SEC("struct_ops/fixture_tick")
void BPF_PROG(fixture_tick, struct task_struct *p)
{
	struct task_ctx *task;
	u64 now, until;
	u32 spin;

	if (!slow_pct || slow_pct >= 100)
		return;
	task = bpf_task_storage_get(&task_ctxs, (void *)p, 0, 0);
	if (!task || !task->ticked_ns)
		return;
	now = bpf_ktime_get_ns();
	until = now + (now - task->ticked_ns) * slow_pct / (100 - slow_pct);
	bpf_for(spin, 0, MAX_SPINS) {
		now = bpf_ktime_get_ns();
		if (!before(now, until))
			break;
	}
	task->ticked_ns = now;
}

SEC("struct_ops/fixture_running")
void BPF_PROG(fixture_running, struct task_struct *p)
{
	struct task_ctx *task = bpf_task_storage_get(&task_ctxs, (void *)p, 0, 0);
	u64 now = bpf_ktime_get_ns();
	u32 cpu = bpf_get_smp_processor_id();
	struct cpu_slot *slot = bpf_map_lookup_elem(&cpu_slots, &cpu);

	if (slot) {
		slot->pid = p->pid;
		slot->weight = p->scx.weight;
		slot->since_ns = now;
	}
	if (task) {
		task->runs++;
		task->ticked_ns = now;
	}
	if (before(vtime_now, p->scx.dsq_vtime))
		vtime_now = p->scx.dsq_vtime;
}

SEC("struct_ops/fixture_stopping")
void BPF_PROG(fixture_stopping, struct task_struct *p, bool runnable)
{
	u32 weight = p->scx.weight ? p->scx.weight : 100;
	u64 used = SCX_SLICE_DFL - p->scx.slice;
	u64 vtime = p->scx.dsq_vtime + used * 100 / weight;
	u64 *total = bpf_map_lookup_elem(&weight_used, &weight);
	s32 pid = p->pid;

	if (total)
		*total += used;
	else
		bpf_map_update_elem(&weight_used, &weight, &used, BPF_NOEXIST);

	p->scx.dsq_vtime = vtime;
	bpf_map_update_elem(&task_vtime, &pid, &vtime, BPF_ANY);
}

SEC("struct_ops/fixture_enable")
void BPF_PROG(fixture_enable, struct task_struct *p)
{
	p->scx.dsq_vtime = vtime_now;
}

SEC("struct_ops.s/fixture_init")
s32 BPF_PROG(fixture_init)
{
	s32 error = scx_bpf_create_dsq(SHARED_DSQ, -1);

	started_ns = bpf_ktime_get_ns();
	error = error ? error : scx_bpf_create_dsq(STARVED_DSQ, -1);
	if (!error && race_window)
		error = scx_bpf_create_dsq(RACED_DSQ, -1);
	if (!error && serve_mask)
		error = scx_bpf_create_dsq(CONFINED_DSQ, -1);
	return error;
}

SEC("struct_ops/fixture_exit")
void BPF_PROG(fixture_exit, struct scx_exit_info *ei)
{
	bpf_probe_read_kernel_str(exit_info.reason, sizeof(exit_info.reason), ei->reason);
	bpf_probe_read_kernel_str(exit_info.msg, sizeof(exit_info.msg), ei->msg);
	exit_info.exit_code = ei->exit_code;
	/* Last: the loader looks at it first. */
	exit_info.kind = ei->kind;
}

SEC(".struct_ops.link")
struct sched_ext_ops fixture_ops = {
	.select_cpu = (void *)fixture_select_cpu,
	.enqueue = (void *)fixture_enqueue,
	.dispatch = (void *)fixture_dispatch,
	.tick = (void *)fixture_tick,
	.running = (void *)fixture_running,
	.stopping = (void *)fixture_stopping,
	.enable = (void *)fixture_enable,
	.init = (void *)fixture_init,
	.exit = (void *)fixture_exit,
	.name = "fixture",
};
