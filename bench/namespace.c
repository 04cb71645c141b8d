/*
 * A command in a fresh mount namespace on an overlay, the plain way: what bench/namespace measures mountfd against.
 *
 *     namespace ROUNDS LOWER UPPER WORK TARGET
 *
 * Each round forks; the child copies the host's whole table with unshare, makes it private, mounts the overlay on
 * TARGET with mount, pivots into it, detaches the old root and executes /true. Prints the microseconds of each round,
 * from the fork until the child has been waited for, a line each.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void must(long result, const char *what)
{
    if (result >= 0)
        return;
    fprintf(stderr, "namespace.c: %s: %s\n", what, strerror(errno));
    _exit(1);
}

static void child(const char *options, const char *target)
{
    must(unshare(CLONE_NEWNS), "unshare");
    must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "private");
    must(mount("overlay", target, "overlay", 0, options), "overlay");
    must(chdir(target), "chdir");
    must(syscall(SYS_pivot_root, ".", "."), "pivot_root");
    must(umount2(".", MNT_DETACH), "umount2");
    must(chdir("/"), "chdir");
    execl("/true", "true", (char *)NULL);
    must(-1, "execl");
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

int main(int count, char **words)
{
    static char options[4096];
    if (count != 6)
        return 64;
    snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s,workdir=%s", words[2], words[3], words[4]);
    for (int i = 0; i < atoi(words[1]); i++) {
        double begin = now();
        int status;
        pid_t pid = fork();
        must(pid, "fork");
        if (pid == 0)
            child(options, words[5]);
        must(waitpid(pid, &status, 0), "waitpid");
        if (status != 0)
            return 1;
        printf("%.1f\n", now() - begin);
    }
    return 0;
}
