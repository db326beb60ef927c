// SPDX-License-Identifier: GPL-2.0-only
/* Makes an arena with two pages in use, a ring buffer whose consumer stands at 8, and maps that bpftool cannot fill. */
#include <linux/bpf.h>
#include <linux/bpf_common.h>
#include <linux/btf.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef BPF_MAP_TYPE_ARENA
#define BPF_MAP_TYPE_ARENA 33
#endif

static int create(int type, const char *name, unsigned entries, unsigned flags, unsigned long long extra)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.map_type = type;
	attr.max_entries = entries;
	attr.map_flags = flags;
	attr.map_extra = extra;
	strcpy(attr.map_name, name);
	return syscall(__NR_bpf, BPF_MAP_CREATE, &attr, sizeof(attr));
}

/* With keys and values of these sizes; of an inner map's kind where there is one. */
static int create_sized(int type, const char *name, unsigned entries, unsigned flags, unsigned key, unsigned value,
			int inner)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.map_type = type;
	attr.max_entries = entries;
	attr.map_flags = flags;
	attr.key_size = key;
	attr.value_size = value;
	attr.inner_map_fd = inner;
	strcpy(attr.map_name, name);
	return syscall(__NR_bpf, BPF_MAP_CREATE, &attr, sizeof(attr));
}

static int update(int map, const void *key, const void *value)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.map_fd = map;
	attr.key = (unsigned long)key;
	attr.value = (unsigned long)value;
	return syscall(__NR_bpf, BPF_MAP_UPDATE_ELEM, &attr, sizeof(attr));
}

static int pop(int map, void *value)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.map_fd = map;
	attr.value = (unsigned long)value;
	return syscall(__NR_bpf, BPF_MAP_LOOKUP_AND_DELETE_ELEM, &attr, sizeof(attr));
}

/* Queue and stack: 1 2 3 4 pushed into room for three, one popped after the first. */
static void fill(int map)
{
	unsigned value;

	for (unsigned number = 1; number <= 4; number++) {
		update(map, NULL, &number);
		if (number == 1) {
			pop(map, &value);
		}
	}
}

/* 10.0.0.0/8, 10.1.0.0/16 and 192.168.0.0/16; the join of the two networks is a node without a value. */
static void fill_trie(int map)
{
	static const struct {
		unsigned len;
		unsigned char address[4];
	} keys[] = { { 8, { 10, 0, 0, 0 } }, { 16, { 10, 1, 0, 0 } }, { 16, { 192, 168, 0, 0 } } };

	for (unsigned long long number = 0; number < 3; number++)
		update(map, &keys[number], &number);
}

/* A trace, from a program that is run once: `return bpf_get_stackid(ctx, map, 0)`. */
static int fill_stacks(int map)
{
	static const struct bpf_insn insns[] = {
		{ .code = BPF_LD | BPF_IMM | BPF_DW, .dst_reg = 2, .src_reg = BPF_PSEUDO_MAP_FD },
		{ 0 },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 3 },
		{ .code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_get_stackid },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	struct bpf_insn patched[sizeof(insns) / sizeof(insns[0])];
	union bpf_attr attr;
	int program;

	memcpy(patched, insns, sizeof(insns));
	patched[0].imm = map;
	memset(&attr, 0, sizeof(attr));
	attr.prog_type = BPF_PROG_TYPE_RAW_TRACEPOINT;
	attr.insns = (unsigned long)patched;
	attr.insn_cnt = sizeof(insns) / sizeof(insns[0]);
	attr.license = (unsigned long)"GPL";
	strcpy(attr.prog_name, "t_stackid");
	program = syscall(__NR_bpf, BPF_PROG_LOAD, &attr, sizeof(attr));
	memset(&attr, 0, sizeof(attr));
	attr.test.prog_fd = program;
	if (syscall(__NR_bpf, BPF_PROG_TEST_RUN, &attr, sizeof(attr)))
		return -1;
	return (int)attr.test.retval;
}

static int others(void)
{
	const unsigned one = 1, seven = 7;
	int bad = 0;
	int inner = create_sized(BPF_MAP_TYPE_ARRAY, "t_inner", 2, 0, 4, 8, 0);
	int queue = create_sized(BPF_MAP_TYPE_QUEUE, "t_queue", 3, 0, 0, 4, 0);
	int stack = create_sized(BPF_MAP_TYPE_STACK, "t_stack", 3, 0, 0, 4, 0);
	int bloom = create_sized(BPF_MAP_TYPE_BLOOM_FILTER, "t_bloom", 8, 0, 0, 4, 0);
	int trie = create_sized(BPF_MAP_TYPE_LPM_TRIE, "t_trie", 8, BPF_F_NO_PREALLOC, 8, 8, 0);
	int arrays = create_sized(BPF_MAP_TYPE_ARRAY_OF_MAPS, "t_arrays", 3, 0, 4, 4, inner);
	int hashes = create_sized(BPF_MAP_TYPE_HASH_OF_MAPS, "t_hashes", 3, 0, 4, 4, inner);
	int programs = create_sized(BPF_MAP_TYPE_PROG_ARRAY, "t_progs", 2, 0, 4, 4, 0);
	int lru = create_sized(BPF_MAP_TYPE_LRU_PERCPU_HASH, "t_lruphash", 64, 0, 4, 8, 0);
	int stacks = create_sized(BPF_MAP_TYPE_STACK_TRACE, "t_stacks", 4, 0, 4, 64, 0);
	int kept = fill_stacks(stacks);
	unsigned long long values[64];

	fill(queue);
	fill(stack);
	fill_trie(trie);
	update(bloom, NULL, &seven);
	bad |= update(arrays, &one, &inner) | update(hashes, &seven, &inner);
	for (int cpu = 0; cpu < 64; cpu++)
		values[cpu] = 100 + cpu;
	bad |= update(lru, &seven, values);
	printf("maps: %d %d %d %d %d %d %d %d %d, %d, stack %d\n", queue, stack, bloom, trie, arrays, hashes, programs, lru,
	       stacks, bad, kept);
	return bad;
}

/* `struct obj { char name[16]; struct obj *next; }` and `struct holder { struct obj *p; }` (Documentation/bpf/btf.rst). */
static int load_types(void)
{
	static const struct {
		struct btf_header head;
		struct {
			struct btf_type type;
			unsigned encoding;
		} character;
		struct {
			struct btf_type type;
			struct btf_array array;
		} name;
		struct {
			struct btf_type type;
			unsigned encoding;
		} word;
		struct {
			struct btf_type type;
			struct btf_member members[2];
		} obj;
		struct btf_type pointer;
		struct {
			struct btf_type type;
			struct btf_member members[1];
		} holder;
		char strings[40];
	} types = {
		.head = { .magic = 0xeb9f, .version = 1, .hdr_len = sizeof(struct btf_header), .type_len = 128, .str_off = 128,
			  .str_len = sizeof(types.strings) },
		/* The strings: 1 char, 6 word, 11 obj, 15 name, 20 next, 25 holder, 32 p. */
		.character = { { 1, BTF_KIND_INT << 24, { .size = 1 } }, BTF_INT_CHAR << 24 | 8 },
		.name = { { 0, BTF_KIND_ARRAY << 24, { 0 } }, { .type = 1, .index_type = 3, .nelems = 16 } },
		.word = { { 6, BTF_KIND_INT << 24, { .size = 4 } }, 32 },
		.obj = { { 11, BTF_KIND_STRUCT << 24 | 2, { .size = 24 } }, { { 15, 2, 0 }, { 20, 5, 128 } } },
		.pointer = { 0, BTF_KIND_PTR << 24, { .type = 4 } },
		.holder = { { 25, BTF_KIND_STRUCT << 24 | 1, { .size = 8 } }, { { 32, 5, 0 } } },
		.strings = "\0char\0word\0obj\0name\0next\0holder\0p",
	};
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.btf = (unsigned long)&types;
	attr.btf_size = sizeof(types);
	return syscall(__NR_bpf, BPF_BTF_LOAD, &attr, sizeof(attr));
}

/* An array whose one element points at an object in the arena, which points at another. */
static void point_into(char *arena)
{
	const unsigned zero = 0;
	char *second = arena + 2 * 4096;
	union bpf_attr attr;
	int map;

	memset(&attr, 0, sizeof(attr));
	attr.map_type = BPF_MAP_TYPE_ARRAY;
	attr.max_entries = 1;
	attr.key_size = 4;
	attr.value_size = 8;
	attr.btf_fd = load_types();
	attr.btf_key_type_id = 3;
	attr.btf_value_type_id = 6;
	strcpy(attr.map_name, "t_pointer");
	map = syscall(__NR_bpf, BPF_MAP_CREATE, &attr, sizeof(attr));
	memcpy(arena + 16, &second, sizeof(second));
	printf("maps: types %d, pointer %d, %d\n", attr.btf_fd, map, update(map, &zero, &arena));
}

int main(void)
{
	char *const at = (char *)0x7e1200000000;
	int arena = create(BPF_MAP_TYPE_ARENA, "t_arena", 8, BPF_F_MMAPABLE, (unsigned long long)at);
	int ring = create(BPF_MAP_TYPE_RINGBUF, "t_ring", 4096, 0, 0);
	char *mapped = mmap(at, 8 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, arena, 0);
	unsigned long *consumer = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring, 0);

	printf("maps: arena %d at %p, ring %d at %p\n", arena, mapped, ring, consumer);
	fflush(stdout);
	if (mapped == MAP_FAILED || consumer == MAP_FAILED)
		return 1;
	strcpy(mapped, "first page");
	strcpy(mapped + 2 * 4096, "third page");
	*consumer = 8;
	point_into(mapped);
	others();
	fflush(stdout);
	for (;;)
		pause();
}
