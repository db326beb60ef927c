// Work of every class for the kernel's books: hogs, sleepers, real-time and deadline tasks, forks, masks, cgroups.
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ROOT "/sys/fs/cgroup/"

struct attr {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

static long now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000L + t.tv_nsec / 1000;
}

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		perror(path);
	close(fd);
}

static void pin(int cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static void join(const char *group)
{
	char path[128], pid[16];
	snprintf(path, sizeof(path), ROOT "%s/cgroup.procs", group);
	snprintf(pid, sizeof(pid), "%d", getpid());
	put(path, pid);
}

static void become(int policy, int priority)
{
	struct sched_param param = { .sched_priority = priority };
	if (sched_setscheduler(0, policy, &param))
		perror("sched_setscheduler");
}

// Spins and sleeps for ever, microseconds; never sleeps for 0.
static void cycle(long spin, long sleep_us)
{
	for (;;) {
		long end = now_us() + spin;
		while (now_us() < end)
			;
		if (sleep_us)
			usleep(sleep_us);
	}
}

static int start(const char *name, int cpu, const char *group)
{
	int pid = fork();
	if (pid)
		return 0;
	syscall(SYS_prctl, 15, name);
	if (group)
		join(group);
	if (cpu >= 0)
		pin(cpu);
	return 1;
}

int main(void)
{
	put(ROOT "cgroup.subtree_control", "+cpu");
	mkdir(ROOT "quota", 0755);
	put(ROOT "quota/cpu.max", "10000 100000");
	put(ROOT "quota/cgroup.subtree_control", "+cpu");
	mkdir(ROOT "quota/inner", 0755);
	mkdir(ROOT "light", 0755);
	put(ROOT "light/cpu.weight", "50");
	mkdir(ROOT "idle", 0755);
	put(ROOT "idle/cpu.idle", "1");

	if (start("hog", 1, NULL))
		cycle(1000000, 0);
	if (start("nice", 1, NULL)) {
		setpriority(PRIO_PROCESS, 0, 5);
		cycle(1000000, 0);
	}
	if (start("delayed", 1, NULL))
		cycle(3000, 20000);
	if (start("capped", 1, "quota/inner"))
		cycle(1000000, 0);
	if (start("cappedwake", 1, "quota/inner"))
		cycle(200, 15000);
	if (start("light", 0, "light"))
		cycle(1000000, 0);
	if (start("lightnap", 0, "light"))
		cycle(2000, 7000);
	if (start("idlegroup", 0, "idle"))
		cycle(1000000, 0);
	if (start("idlepolicy", 0, NULL)) {
		become(SCHED_IDLE, 0);
		cycle(1000000, 0);
	}
	if (start("fifo", 0, NULL)) {
		become(SCHED_FIFO, 5);
		cycle(1000, 9000);
	}
	for (int i = 0; i < 2; i++)
		if (start("robin", 1, NULL)) {
			become(SCHED_RR, 2);
			cycle(2000, 11000);
		}
	if (start("deadline", -1, NULL)) {
		struct attr attr = { .size = sizeof(attr), .policy = 6, .runtime = 2000000,
				     .deadline = 20000000, .period = 20000000 };
		if (syscall(SYS_sched_setattr, 0, &attr, 0))
			perror("sched_setattr");
		cycle(1000, 15000);
	}
	// Two that wake each other.
	int to[2], from[2];
	if (pipe(to) || pipe(from))
		return 1;
	if (start("ping", -1, NULL))
		for (char c = 0;;)
			if (write(to[1], &c, 1) != 1 || read(from[0], &c, 1) != 1)
				return 1;
	if (start("pong", -1, NULL))
		for (char c = 0;;)
			if (read(to[0], &c, 1) != 1 || write(from[1], &c, 1) != 1)
				return 1;
	// One that changes its class, its mask and its cgroup.
	if (start("churn", -1, NULL))
		for (int i = 0;; i++) {
			become(i & 1 ? SCHED_OTHER : SCHED_FIFO, i & 1 ? 0 : 1);
			pin(i % 2);
			join(i % 3 ? "light" : "quota/inner");
			usleep(3000);
			setpriority(PRIO_PROCESS, 0, i % 7);
		}
	// Forks, and cgroups that come and go.
	if (start("forks", -1, NULL))
		for (int i = 0;; i++) {
			char path[64];
			snprintf(path, sizeof(path), ROOT "light%d", i % 4);
			mkdir(path, 0755);
			if (!fork()) {
				snprintf(path, sizeof(path), "light%d", i % 4);
				join(path);
				usleep(1000);
				_exit(0);
			}
			wait(NULL);
			rmdir(path);
		}
	// Uninterruptible: a parent whose vfork child sleeps.
	if (start("vfork", -1, NULL)) {
		if (!vfork()) {
			usleep(1000000000);
			_exit(0);
		}
	}
	for (;;)
		wait(NULL);
}
