/*
 * What bench/replace measures mountfd against, and who reads meanwhile.
 *
 *     replace calls TARGET PAUSE REPETITIONS SOURCE...
 *                                                  the calls of a replacement with nothing around them, by the sources in
 *                                                  turn, with a pause of a millisecond after each, which doesn't count:
 *                                                  PAUSE is awake or asleep; prints the microseconds of one, the mean of all
 *     replace guarded TARGET PAUSE REPETITIONS SOURCE...
 *                                                  the same with all the calls that mountfd makes around them: a lock, the
 *                                                  look at what stands there, beneath and below, before and after, a clone
 *                                                  of the old one, which is let go
 *     replace read TARGET COUNT                    COUNT processes, each in a mount namespace that receives from this one,
 *                                                  read through TARGET until the standard input ends. Prints `ready`,
 *                                                  then how often all read, and how often they found the base, nothing or
 *                                                  an error (gaps), or files of two versions in one directory (mixed)
 *     replace hold COUNT                           COUNT such namespaces, until the standard input ends; prints `ready`
 *
 * Kernel numbers are written out because the C library's headers may be older than the kernel.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { NR_OPEN_TREE = 428, NR_MOVE_MOUNT = 429, NR_MOUNT_SETATTR = 442, NR_STATMOUNT = 457, NR_LISTMOUNT = 458 };
enum { CLONE_TREE = 1, FROM_EMPTY = 4, TO_EMPTY = 0x40, BENEATH = 0x200, UNIQUE_ID = 0x4000, DETACH = 2, NAME = 8 };
enum { BASIC = 2, ROOT = 8, POINT = 0x10, RECURSIVE = 0x8000, NODIRATIME = 0x80, STX_MNT_ID = 144 };

struct tally { uint64_t reads, gaps, mixed; };

static long must(long result, const char *what)
{
    if (result >= 0)
        return result;
    fprintf(stderr, "replace.c: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

static void replace(const char *target, const char *source)
{
    static union { struct statx fields; char bytes[512]; } place;
    int fd = must(syscall(NR_OPEN_TREE, AT_FDCWD, source, CLONE_TREE | O_CLOEXEC), "open_tree");
    must(statx(AT_FDCWD, target, 0, UNIQUE_ID, &place.fields), "statx");
    must(syscall(NR_MOVE_MOUNT, fd, "", AT_FDCWD, target, FROM_EMPTY | BENEATH), "move_mount");
    must(umount2(target, DETACH), "umount2");
    close(fd);
}

static uint64_t look_at(uint64_t id, uint64_t fields)
{
    static struct { uint32_t size, fd; uint64_t id, param; } request = {24, 0, 0, 0};
    static struct { char head[48]; uint64_t parent; char rest[4040]; } answer;
    request.id = id;
    request.param = fields;
    must(syscall(NR_STATMOUNT, &request, &answer, sizeof answer, 0), "statmount");
    return answer.parent;
}

static uint64_t id_of(int fd, const char *path)
{
    static union { struct statx fields; char bytes[512]; } place;
    uint64_t id;
    must(statx(fd, path, *path ? 0 : AT_EMPTY_PATH, UNIQUE_ID, &place.fields), "statx");
    memcpy(&id, place.bytes + STX_MNT_ID, sizeof id);
    return id;
}

static void set(int fd, uint64_t attributes, uint64_t propagation, int flags)
{
    uint64_t change[4] = {attributes, 0, propagation, 0};
    must(syscall(NR_MOUNT_SETATTR, fd, "", AT_EMPTY_PATH | flags, change, sizeof change), "mount_setattr");
}

static void replace_guarded(const char *target, const char *source)
{
    static uint64_t ids[64];
    sigset_t all, before;
    char folder[4096], link[64];
    int fd = must(syscall(NR_OPEN_TREE, AT_FDCWD, source, CLONE_TREE | O_CLOEXEC), "open_tree");
    int old = must(open(target, O_PATH | O_CLOEXEC), "open");
    struct { uint32_t size, fd; uint64_t id, param; } request = {24, 0, id_of(old, ""), 0};

    sigfillset(&all);
    look_at(look_at(request.id, BASIC | ROOT | POINT), BASIC);
    snprintf(folder, sizeof folder, "%.*s", (int)(strrchr(target, '/') - target), target);
    int lock = must(open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), "open");
    must(flock(lock, LOCK_EX | LOCK_NB), "flock");
    id_of(AT_FDCWD, target);
    must(syscall(NR_LISTMOUNT, &request, ids, 64, 0), "listmount");
    uint64_t made = id_of(fd, "");
    set(fd, 0, MS_PRIVATE, RECURSIVE);
    int previous = must(syscall(NR_OPEN_TREE, old, "", CLONE_TREE | O_CLOEXEC | AT_EMPTY_PATH), "open_tree");
    sigprocmask(SIG_SETMASK, &all, &before);
    set(old, NODIRATIME, 0, 0);
    must(syscall(NR_MOVE_MOUNT, fd, "", old, "", FROM_EMPTY | TO_EMPTY | BENEATH), "move_mount");
    must(syscall(NR_LISTMOUNT, &request, ids, 64, 0), "listmount");
    snprintf(link, sizeof link, "/proc/self/fd/%d", old);
    must(umount2(link, DETACH), "umount2");
    if (id_of(AT_FDCWD, target) != made)
        must(-1, "the old mount stands still");
    sigprocmask(SIG_SETMASK, &before, NULL);
    must(flock(lock, LOCK_UN), "flock");
    close(lock);
    close(old);
    close(fd);
    close(previous);
}

static int name(int directory, const char *file, char *text)
{
    int fd = openat(directory, file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t length = read(fd, text, NAME);
    close(fd);
    return length > 1 && text[0] == 'v';
}

static void look(const char *target, struct tally *tally)
{
    char one[NAME] = "", two[NAME] = "";
    int directory = open(target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    tally->reads++;
    if (directory < 0 || !name(directory, "a", one) || !name(directory, "b", two))
        tally->gaps++;
    else if (memcmp(one, two, NAME))
        tally->mixed++;
    if (directory >= 0)
        close(directory);
}

static void go_away(void)
{
    must(prctl(PR_SET_PDEATHSIG, SIGKILL), "prctl");
    must(unshare(CLONE_NEWNS), "unshare");
    must(mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL), "mount");
}

static void read_all_the_time(const char *target, struct tally *tally, volatile int *go)
{
    while (*go)
        look(target, tally);
}

static void wait_for_the_end(void)
{
    char byte;
    puts("ready");
    fflush(stdout);
    while (read(0, &byte, 1) > 0)
        ;
}

static void attend(const char *target, int count)
{
    struct tally *tallies, sum = {0, 0, 0};
    volatile int *go;
    int ready[2];
    char byte;

    tallies = mmap(NULL, (count + 1) * sizeof *tallies, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    go = (volatile int *)&tallies[count];
    *go = 1;
    must(pipe(ready), "pipe");
    for (int i = 0; i < count; i++)
        if (must(fork(), "fork") == 0) {
            go_away();
            must(write(ready[1], "x", 1), "write");
            if (target)
                read_all_the_time(target, &tallies[i], go);
            else
                while (*go)
                    poll(NULL, 0, 100);
            _exit(0);
        }
    for (int i = 0; i < count; i++)
        must(read(ready[0], &byte, 1), "read");
    wait_for_the_end();
    *go = 0;
    while (wait(NULL) > 0)
        ;
    for (int i = 0; i < count; i++) {
        sum.reads += tallies[i].reads;
        sum.gaps += tallies[i].gaps;
        sum.mixed += tallies[i].mixed;
    }
    printf("%lu %lu %lu\n", sum.reads, sum.gaps, sum.mixed);
}

int main(int count, char **words)
{
    if (count == 4 && !strcmp(words[1], "read"))
        attend(words[2], atoi(words[3]));
    else if (count == 3 && !strcmp(words[1], "hold"))
        attend(NULL, atoi(words[2]));
    else if (count > 5 && (!strcmp(words[1], "calls") || !strcmp(words[1], "guarded"))) {
        int repetitions = atoi(words[4]);
        double sum = 0;
        for (int i = 0; i < repetitions; i++) {
            double begin = now();
            (words[1][0] == 'c' ? replace : replace_guarded)(words[2], words[5 + i % (count - 5)]);
            double end = now();
            sum += end - begin;
            if (!strcmp(words[3], "asleep"))
                nanosleep(&(struct timespec){0, 1000000}, NULL);
            else
                while (now() < end + 1000)
                    ;
        }
        printf("%.3f\n", sum / repetitions);
    } else
        return 64;
    return 0;
}
