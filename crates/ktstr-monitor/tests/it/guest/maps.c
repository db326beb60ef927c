// SPDX-License-Identifier: GPL-2.0-only
/* Makes an arena with two pages in use, and a ring buffer whose consumer stands at 8. */
#include <linux/bpf.h>
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
	for (;;)
		pause();
}
