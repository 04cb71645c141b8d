/*
 * The system calls of mountfd.assemble() with nothing around them: what bench/assemble measures it against.
 *
 *     assemble CALLS IDMAP LAYERS WARM-UP ITERATIONS DIR
 *
 *     CALLS  same   every call that mountfd makes, in its order
 *            lean   without the calls that only ask: what the same result needs when nobody looks
 *            kept   below two clones that are made once; every call that mountfd makes then
 *            plain  each layer by its path as a string; IDMAP must be none
 *     IDMAP  new    a user namespace for each iteration
 *            cached one user namespace for all
 *            none
 *     DIR    holds layers/0/fs, layers/1/fs and so on, writable/upper, writable/work and target
 *
 * Prints the microseconds of each iteration after the warm-up, one a line: from nothing to the attached overlay, all
 * descriptors closed. Taking the overlay away again and closing the old user namespace are not timed. A warm-up
 * iteration looks at what was mounted: owners must be shifted by the idmap, every layer must be there.
 *
 * Kernel numbers are written out because the C library's headers may be older than the kernel.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    NR_PIDFD_SEND_SIGNAL = 424,
    NR_OPEN_TREE = 428,
    NR_MOVE_MOUNT = 429,
    NR_FSOPEN = 430,
    NR_FSCONFIG = 431,
    NR_FSMOUNT = 432,
    NR_OPENAT2 = 437,
    NR_MOUNT_SETATTR = 442,
    NR_LISTMOUNT = 458,
};
enum { SET_STRING = 1, SET_FD = 5, CMD_CREATE = 6 };
enum { CLOEXEC = 1, CLONE_TREE = 1, FROM_EMPTY_PATH = 4 };
enum { ATTR_RDONLY = 1, ATTR_IDMAP = 0x100000 };
enum { IN_CLONE = 0x08 | 0x04 | 0x01, IN_BASE = 0x10 | 0x02 }; /* RESOLVE_*: BENEATH NO_SYMLINKS NO_XDEV, IN_ROOT NO_MAGICLINKS */
enum { WANT_UNIQUE_ID = 0x4000, STX_MNT_ID = 144, WAIT_ANY_KIND = 0x40000000 };
enum { PATH_DIR = O_PATH | O_DIRECTORY | O_CLOEXEC, STACK = 16384, PATH_BYTES = 512, OUTSIDE = 100000 };

struct attributes { uint64_t set, clear, propagation, user_namespace; };
struct how { uint64_t flags, mode, resolve; };
struct request { uint32_t size, spare; uint64_t mount_id, param; };

static struct {
    const char *calls, *idmap, *dir;
    int layers, warm_up, iterations;
    char layers_dir[PATH_BYTES], upper[PATH_BYTES], work[PATH_BYTES], target[PATH_BYTES];
    char (*names)[32];           /* N/fs */
    char (*paths)[PATH_BYTES];   /* DIR/layers/N/fs */
} job;

static int kept_user_namespace = -1, kept_lower = -1, kept_pair = -1, kept_log = -1;

static long must(long result, const char *what)
{
    if (result >= 0)
        return result;
    fprintf(stderr, "assemble.c: %s: %s\n", what, strerror(errno));
    exit(1);
}

static bool is(const char *one, const char *other)
{
    return strcmp(one, other) == 0;
}

/* --- a user namespace that carries the idmap ------------------------------------------------------------------- */

static void write_map(int folder, const char *name)
{
    char text[32];
    int length = snprintf(text, sizeof text, "0 %d 65536\n", OUTSIDE);
    int fd = must(openat(folder, name, O_WRONLY | O_CLOEXEC), name);
    must(write(fd, text, length), "write id map");
    close(fd);
}

static void write_maps(pid_t pid)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/%d", pid);
    int folder = must(openat(AT_FDCWD, path, O_PATH | O_CLOEXEC), path);
    write_map(folder, "uid_map");
    write_map(folder, "gid_map");
    close(folder);
}

static int open_user_namespace(pid_t pid)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
    return must(openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC), path);
}

static int child(void *argument)
{
    _exit((int)(intptr_t)argument);
}

static int new_user_namespace(void)
{
    static char stack[STACK] __attribute__((aligned(16)));
    int flags = CLONE_NEWUSER | CLONE_VM | CLONE_FILES | CLONE_PIDFD, pidfd = -1;
    sigset_t all, before;
    siginfo_t ended;

    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before);
    pid_t pid = must(clone(child, stack + STACK, flags, NULL, &pidfd), "clone");
    write_maps(pid);
    int fd = open_user_namespace(pid);
    must(syscall(NR_PIDFD_SEND_SIGNAL, pidfd, SIGKILL, NULL, 0), "pidfd_send_signal");
    must(waitid(P_PIDFD, pidfd, &ended, WEXITED | WAIT_ANY_KIND), "waitid");
    close(pidfd);
    sigprocmask(SIG_SETMASK, &before, NULL);
    return fd;
}

/* --- clones ---------------------------------------------------------------------------------------------------- */

static void idmap_clone(int clone)
{
    if (is(job.idmap, "none"))
        return;
    if (kept_user_namespace < 0)
        kept_user_namespace = new_user_namespace();
    struct attributes wanted = { ATTR_IDMAP | ATTR_RDONLY, 0, 0, kept_user_namespace };
    must(syscall(NR_MOUNT_SETATTR, clone, "", AT_EMPTY_PATH, &wanted, sizeof wanted), "mount_setattr");
}

static uint64_t mount_of(int at, const char *name)
{
    struct statx answer;
    uint64_t id;
    int flags = AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT | (*name ? 0 : AT_EMPTY_PATH);
    must(statx(at, name, flags, WANT_UNIQUE_ID, &answer), "statx");
    memcpy(&id, (char *)&answer + STX_MNT_ID, sizeof id);
    return id;
}

static bool has_mounts_below(uint64_t mount_id)
{
    struct request request = { sizeof request, 0, mount_id, 0 };
    uint64_t id;
    return must(syscall(NR_LISTMOUNT, &request, &id, 1, 0), "listmount") > 0;
}

static int open_dir(const char *path)
{
    return must(openat(AT_FDCWD, path, PATH_DIR), path);
}

static int clone_fd(int fd)
{
    return must(syscall(NR_OPEN_TREE, fd, "", CLONE_TREE | O_CLOEXEC | AT_EMPTY_PATH), "open_tree");
}

/* One layer alone: a clone of its own directory. */
static int clone_single(void)
{
    if (is(job.calls, "same")) {
        int first = open_dir(job.paths[0]);
        mount_of(first, "");
        close(first);
    }
    int held = open_dir(job.paths[0]), clone = clone_fd(held);
    idmap_clone(clone);
    close(held);
    return clone;
}

/* Several layers: a clone of the directory above them. */
static int clone_lower(void)
{
    if (job.layers == 1)
        return clone_single();
    int held = open_dir(job.layers_dir);
    if (is(job.calls, "same")) {
        uint64_t here = mount_of(held, "");
        if (has_mounts_below(here))
            for (int i = 0; i < job.layers; i++)
                if (mount_of(held, job.names[i]) != here)
                    must(-1, "a layer lies on another mount");
    }
    int clone = clone_fd(held);
    idmap_clone(clone);
    close(held);
    return clone;
}

static void ask_where(const char *path)
{
    char link[32], real[4096];
    struct stat here;
    int fd = open_dir(path);
    mount_of(fd, "");
    must(fstat(fd, &here), path);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    must(readlink(link, real, sizeof real), link);
    close(fd);
}

static int clone_pair(void)
{
    char parent[PATH_BYTES];
    snprintf(parent, sizeof parent, "%.400s/writable", job.dir);
    if (is(job.calls, "same")) {
        ask_where(job.upper);
        ask_where(job.work);
    }
    int held = open_dir(parent);
    if (is(job.calls, "same"))
        mount_of(held, "");
    int clone = clone_fd(held);
    close(held);
    if (is(job.calls, "same")) {
        struct stat there;
        must(fstatat(clone, "upper", &there, AT_SYMLINK_NOFOLLOW), "upper");
        must(fstatat(clone, "work", &there, AT_SYMLINK_NOFOLLOW), "work");
    }
    return clone;
}

/* --- the overlay ----------------------------------------------------------------------------------------------- */

static void set_fd(int context, const char *key, int fd)
{
    must(syscall(NR_FSCONFIG, context, SET_FD, key, NULL, fd), key);
    close(fd);
}

static void set_string(int context, const char *key, const char *value)
{
    must(syscall(NR_FSCONFIG, context, SET_STRING, key, value, 0), key);
}

static int lock_layer(int pair, const char *name)
{
    struct how how = { O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0, IN_CLONE };
    int fd = must(syscall(NR_OPENAT2, pair, name, &how, sizeof how), "openat2");
    must(flock(fd, LOCK_EX | LOCK_NB), "flock");
    return fd;
}

/* What the kernel says while the overlay is made is looked at; the log is kept open. */
static void begin_log(void)
{
    static bool tried;
    if (!tried)
        kept_log = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    tried = true;
    if (kept_log >= 0)
        lseek(kept_log, 0, SEEK_END);
}

static void read_log(void)
{
    char record[8192];
    while (kept_log >= 0 && read(kept_log, record, sizeof record) > 0)
        ;
}

static void set_lower(int context, int lower, uint64_t resolve)
{
    struct how how = { PATH_DIR, 0, resolve };
    if (job.layers == 1 && resolve == IN_CLONE) {
        set_fd(context, "lowerdir+", must(openat(lower, ".", PATH_DIR), "open layer"));
        return;
    }
    for (int i = 0; i < job.layers; i++)
        set_fd(context, "lowerdir+", must(syscall(NR_OPENAT2, lower, job.names[i], &how, sizeof how), "openat2"));
}

static void set_pair(int context, int upper, int work)
{
    must(syscall(NR_FSCONFIG, context, SET_FD, "upperdir", NULL, upper), "upperdir");
    must(syscall(NR_FSCONFIG, context, SET_FD, "workdir", NULL, work), "workdir");
}

static int open_context(void)
{
    return must(syscall(NR_FSOPEN, "overlay", CLOEXEC), "fsopen");
}

static int create(int context)
{
    struct statfs filesystem;
    set_string(context, "source", job.upper);
    must(syscall(NR_FSCONFIG, context, CMD_CREATE, NULL, NULL, 0), "create");
    int overlay = must(syscall(NR_FSMOUNT, context, CLOEXEC, 0), "fsmount");
    close(context);
    if (!is(job.calls, "lean"))
        must(fstatfs(overlay, &filesystem), "fstatfs");
    return overlay;
}

static void attach(int overlay)
{
    must(syscall(NR_MOVE_MOUNT, overlay, "", AT_FDCWD, job.target, FROM_EMPTY_PATH), "move_mount");
    close(overlay);
}

static void assemble_below(int lower, int pair, uint64_t resolve)
{
    if (!is(job.calls, "lean"))
        begin_log();
    int upper = lock_layer(pair, "upper"), work = lock_layer(pair, "work"), context = open_context();
    set_lower(context, lower, resolve);
    set_pair(context, upper, work);
    int overlay = create(context);
    read_log();
    attach(overlay);
    close(upper);
    close(work);
}

static void assemble_from_clones(void)
{
    int lower = clone_lower(), pair = clone_pair();
    assemble_below(lower, pair, IN_CLONE);
    close(pair);
    close(lower);
}

static void assemble_from_kept(void)
{
    assemble_below(kept_lower, kept_pair, IN_BASE);
}

static void assemble_from_paths(void)
{
    int context = open_context();
    for (int i = 0; i < job.layers; i++)
        set_string(context, "lowerdir+", job.paths[i]);
    set_string(context, "upperdir", job.upper);
    set_string(context, "workdir", job.work);
    attach(create(context));
}

static void keep_clones(void)
{
    kept_lower = must(syscall(NR_OPEN_TREE, AT_FDCWD, job.layers_dir, CLONE_TREE | O_CLOEXEC), job.layers_dir);
    idmap_clone(kept_lower);
    kept_pair = clone_pair();
}

/* --- measuring ------------------------------------------------------------------------------------------------- */

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

static void look(void)
{
    char path[PATH_BYTES];
    struct stat there;
    for (int i = 0; i < job.layers; i++) {
        snprintf(path, sizeof path, "%.400s/file-%d", job.target, i);
        must(lstat(path, &there), path);
    }
    if (there.st_uid != (is(job.idmap, "none") ? 0 : OUTSIDE)) {
        fprintf(stderr, "assemble.c: %s belongs to %u\n", path, there.st_uid);
        exit(1);
    }
}

static void iterate(void (*assemble)(void), int number)
{
    double begin = now();
    assemble();
    double end = now();
    if (number < job.warm_up)
        look();
    else
        printf("%.1f\n", end - begin);
    must(umount2(job.target, 0), "umount2");
    if (is(job.idmap, "new")) {
        close(kept_user_namespace);
        kept_user_namespace = -1;
    }
}

static void read_job(char **arguments)
{
    job.calls = arguments[1], job.idmap = arguments[2], job.dir = arguments[6];
    job.layers = atoi(arguments[3]), job.warm_up = atoi(arguments[4]), job.iterations = atoi(arguments[5]);
    snprintf(job.layers_dir, PATH_BYTES, "%.400s/layers", job.dir);
    snprintf(job.upper, PATH_BYTES, "%.400s/writable/upper", job.dir);
    snprintf(job.work, PATH_BYTES, "%.400s/writable/work", job.dir);
    snprintf(job.target, PATH_BYTES, "%.400s/target", job.dir);
    job.names = calloc(job.layers, sizeof *job.names);
    job.paths = calloc(job.layers, sizeof *job.paths);
    for (int i = 0; i < job.layers; i++) {
        snprintf(job.names[i], sizeof *job.names, "%d/fs", i);
        snprintf(job.paths[i], sizeof *job.paths, "%.400s/layers/%d/fs", job.dir, i);
    }
}

int main(int count, char **arguments)
{
    if (count != 7) {
        fprintf(stderr, "usage: assemble same|lean|kept|plain new|cached|none LAYERS WARM-UP ITERATIONS DIR\n");
        return 2;
    }
    read_job(arguments);
    void (*assemble)(void) = is(job.calls, "plain") ? assemble_from_paths : assemble_from_clones;
    if (is(job.calls, "kept")) {
        keep_clones();
        assemble = assemble_from_kept;
    }
    for (int i = 0; i < job.warm_up + job.iterations; i++)
        iterate(assemble, i);
    return 0;
}
