/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Two schedulers: a root that leaves everything to the kernel's defaults but lets others attach below it, and one for a
 * child cgroup that keeps what it gets and gives up at its third task. Linux 7.3 and later: sub-schedulers are of the
 * form that knows CPUs by topological ids.
 */
#include "scx.h"

char _license[] SEC("license") = "GPL";

/* Ids are a scheduler's own; this one is told from the fixture's. */
#define CHILD_DSQ 7
/* The one at which it fails; those before it wait in the child's queue. */
#define LAST_TASK 3

struct scx_sub_attach_args;

/* A part of the kernel's struct: libbpf matches members by name. */
struct sched_ext_ops_cid {
	void (*enqueue)(struct task_struct *p, u64 enq_flags);
	s32 (*sub_attach)(struct scx_sub_attach_args *args);
	s32 (*init)(void);
	void (*exit)(struct scx_exit_info *ei);
	u64 sub_cgroup_id;
	char name[128];
};

const volatile char error_text[64] = "fixture error";

struct exit_record {
	u32 kind;
	char reason[64];
	char msg[256];
};

/* The kernel puts masks of CPUs for schedulers of this form there, and refuses one without. */
struct {
	__uint(type, BPF_MAP_TYPE_ARENA);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1 << 10); /* pages */
} arena SEC(".maps");

/* An arena is a scheduler's if one of its programs names it. */
#define NAME_ARENA() asm volatile("" ::"r"(&arena))

struct exit_record root_exit;
struct exit_record child_exit;
u64 child_enqueued;

static __always_inline void record(struct exit_record *to, struct scx_exit_info *ei)
{
	bpf_probe_read_kernel_str(to->reason, sizeof(to->reason), ei->reason);
	bpf_probe_read_kernel_str(to->msg, sizeof(to->msg), ei->msg);
	/* Last: the loader looks at it first. */
	to->kind = ei->kind;
}

SEC("struct_ops/root_sub_attach")
s32 BPF_PROG(root_sub_attach, struct scx_sub_attach_args *args)
{
	NAME_ARENA();
	return 0;
}

SEC("struct_ops/root_exit_op")
void BPF_PROG(root_exit_op, struct scx_exit_info *ei)
{
	record(&root_exit, ei);
}

SEC("struct_ops/child_enqueue")
void BPF_PROG(child_enqueue, struct task_struct *p, u64 enq_flags)
{
	if (__sync_fetch_and_add(&child_enqueued, 1) + 1 >= LAST_TASK) {
		static char format[] = "%s";
		unsigned long long args[1] = { (unsigned long long)(void *)error_text };

		scx_bpf_error_bstr(format, args, sizeof(args));
		return;
	}
	insert(p, CHILD_DSQ, SCX_SLICE_DFL, enq_flags);
}

SEC("struct_ops.s/child_init")
s32 BPF_PROG(child_init)
{
	NAME_ARENA();
	return scx_bpf_create_dsq(CHILD_DSQ, -1);
}

SEC("struct_ops/child_exit_op")
void BPF_PROG(child_exit_op, struct scx_exit_info *ei)
{
	record(&child_exit, ei);
}

SEC(".struct_ops.link")
struct sched_ext_ops_cid root_ops = {
	.sub_attach = (void *)root_sub_attach,
	.exit = (void *)root_exit_op,
	.name = "fixture_root",
};

SEC(".struct_ops.link")
struct sched_ext_ops_cid child_ops = {
	.enqueue = (void *)child_enqueue,
	.init = (void *)child_init,
	.exit = (void *)child_exit_op,
	.name = "fixture_child",
};
