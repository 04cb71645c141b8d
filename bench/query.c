/*
 * The system calls of mountfd's questions with nothing around them: what bench/query measures it against.
 *
 *     query QUESTION REPETITIONS PATH
 *
 *     QUESTION  point   is PATH a mount: one statx
 *               lookup  everything about the mount of PATH: one statx, one statmount with every field
 *               under   the mount PATH and those below: one statx, one listmount, a statmount each with every field
 *               list    the whole table: open, read until the end, close
 *
 * Prints the microseconds of one repetition, the mean of all.
 * Kernel numbers are written out because the C library's headers may be older than the kernel.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { NR_STATMOUNT = 457, NR_LISTMOUNT = 458 };
enum { FLAGS = 0x4000 | 0x800, UNIQUE_ID = 0x4000, MOUNT_ROOT = 0x2000, STX_MNT_ID = 144 };
enum { EVERY_FIELD = 0x73ff, ANSWER = 4096, IDS = 8192, BLOCK = 65536 };

struct request { uint32_t size, spare; uint64_t mount_id, param; };

static const char *path;
static union { struct statx fields; char bytes[512]; } place;
static char answer[ANSWER], block[BLOCK];
static uint64_t ids[IDS];

static long must(long result, const char *what)
{
    if (result >= 0)
        return result;
    fprintf(stderr, "query.c: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t point(void)
{
    uint64_t id;
    must(statx(AT_FDCWD, path, FLAGS, UNIQUE_ID, &place.fields), "statx");
    if (!(place.fields.stx_attributes & MOUNT_ROOT))
        exit(2);
    memcpy(&id, place.bytes + STX_MNT_ID, sizeof id);
    return id;
}

static void ask(uint64_t id)
{
    struct request request = {24, 0, id, EVERY_FIELD};
    must(syscall(NR_STATMOUNT, &request, answer, sizeof answer, 0), "statmount");
}

static void lookup(void)
{
    ask(point());
}

static void under(void)
{
    uint64_t top = point();
    struct request request = {24, 0, top, 0};
    long count = must(syscall(NR_LISTMOUNT, &request, ids, IDS, 0), "listmount");
    ask(top);
    for (long i = 0; i < count; i++)
        ask(ids[i]);
}

static void list(void)
{
    int fd = must(open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC), "open");
    while (must(read(fd, block, sizeof block), "read") > 0)
        ;
    close(fd);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

int main(int count, char **words)
{
    if (count != 4)
        return 64;
    int repetitions = atoi(words[2]);
    path = words[3];
    double begin = now();
    for (int i = 0; i < repetitions; i++) {
        switch (words[1][0]) {
        case 'p': point(); break;
        case 'u': under(); break;
        default: words[1][1] == 'o' ? lookup() : list();
        }
    }
    printf("%.3f\n", (now() - begin) / repetitions);
    return 0;
}
