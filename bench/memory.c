/*
 * memory PATTERN POSTMASTER...: every 100 ms until SIGTERM, reads the memory of the postmasters' children whose process
 * title contains PATTERN.  Then prints, for each title, the peaks in kB: anonymous memory, resident memory without
 * shared memory (so that shared_buffers do not count), and all resident memory.
 */
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_PROCESSES 1000

typedef struct Process
{
	int			pid;
	char		title[200];		/* without what it is doing just now */
	long		anonymous,
				unshared,
				resident,
				samples;
	int			gone;
} Process;

static Process processes[MAX_PROCESSES];
static int	nprocesses = 0;
static volatile sig_atomic_t stop = 0;

static void
handle_stop(int signal_number)
{
	(void) signal_number;
	stop = 1;
}

/* Reads a file of /proc/PID into buffer as a string; returns its length, or -1. */
static int
read_proc(int pid, const char *name, char *buffer, size_t size)
{
	char		path[64];
	FILE	   *file;
	size_t		length;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	file = fopen(path, "r");
	if (file == NULL)
		return -1;
	length = fread(buffer, 1, size - 1, file);
	fclose(file);
	buffer[length] = '\0';
	return (int) length;
}

static int
parent_of(int pid)
{
	char		text[512],
			   *p;
	int			parent = -1;

	if (read_proc(pid, "stat", text, sizeof(text)) > 0 && (p = strrchr(text, ')')) != NULL)
		(void) sscanf(p + 1, " %*c %d", &parent);
	return parent;
}

/* Adds workers that are not known yet. */
static void
look_for_workers(const char *pattern, int npostmasters, char **postmasters)
{
	DIR		   *dir = opendir("/proc");
	struct dirent *entry;

	while (dir != NULL && (entry = readdir(dir)) != NULL)
	{
		int			pid = atoi(entry->d_name);
		int			parent,
					ours = 0,
					known = 0;
		char		title[200];

		if (pid <= 0)
			continue;
		for (int i = 0; i < nprocesses && !known; i++)
			known = processes[i].pid == pid && !processes[i].gone;
		if (known || (parent = parent_of(pid)) <= 0)
			continue;
		for (int i = 0; i < npostmasters; i++)
			ours = ours || atoi(postmasters[i]) == parent;
		if (!ours || read_proc(pid, "cmdline", title, sizeof(title)) <= 0 || strstr(title, pattern) == NULL ||
			nprocesses == MAX_PROCESSES)
			continue;
		memset(&processes[nprocesses], 0, sizeof(Process));
		processes[nprocesses].pid = pid;
		snprintf(processes[nprocesses].title, sizeof(title), "%s", title);
		nprocesses++;
	}
	if (dir != NULL)
		closedir(dir);
}

static long
field(const char *status, const char *name)
{
	const char *p = strstr(status, name);

	return p ? atol(p + strlen(name)) : 0;
}

static void
keep_peak(long *peak, long value)
{
	if (value > *peak)
		*peak = value;
}

static void
take_sample(Process *p)
{
	char		status[4096];
	long		resident;

	if (p->gone)
		return;
	if (read_proc(p->pid, "status", status, sizeof(status)) <= 0 || (resident = field(status, "VmRSS:")) == 0)
	{
		p->gone = 1;
		return;
	}
	keep_peak(&p->anonymous, field(status, "RssAnon:"));
	keep_peak(&p->unshared, resident - field(status, "RssShmem:"));
	keep_peak(&p->resident, resident);
	p->samples++;
}

int
main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	signal(SIGTERM, handle_stop);
	for (long i = 0; !stop; i++)
	{
		if (i % 3 == 0)
			look_for_workers(argv[1], argc - 2, argv + 2);
		for (int p = 0; p < nprocesses; p++)
			take_sample(&processes[p]);
		usleep(100000);
	}
	for (int i = 0; i < nprocesses; i++)
		if (processes[i].samples > 0)
			printf("%s\t%ld\t%ld\t%ld\n", processes[i].title, processes[i].anonymous, processes[i].unshared,
				   processes[i].resident);
	return 0;
}
