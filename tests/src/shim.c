/* Loaded into a node before libc (LD_PRELOAD): a wrong clock, and a disk that is full while a file exists.
   FAULTS_CLOCK_SECONDS: added to the wall clock; the monotonic clock stays right.
   FAULTS_FULL: the disk is full while this file exists.
   FAULTS_FOLDER: only below this folder. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static long shift(void) {
    static long seconds;
    static int known;
    if (!known) {
        const char *text = getenv("FAULTS_CLOCK_SECONDS");
        seconds = text ? atol(text) : 0;
        known = 1;
    }
    return seconds;
}

int clock_gettime(clockid_t id, struct timespec *at) {
    int failed = (int)syscall(SYS_clock_gettime, id, at);
    if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) at->tv_sec += shift();
    return failed;
}

int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}

static int full(void) {
    const char *flag = getenv("FAULTS_FULL");
    struct stat found;
    return flag && syscall(SYS_newfstatat, AT_FDCWD, flag, &found, 0) == 0;
}

static int below(const char *path) {
    const char *folder = getenv("FAULTS_FOLDER");
    return folder && !strncmp(path, folder, strlen(folder));
}

static int refused_file(int file) {
    char name[64], path[PATH_MAX];
    if (!full()) return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", file);
    ssize_t length = readlink(name, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    if (!below(path)) return 0;
    errno = ENOSPC;
    return 1;
}

static int refused_path(const char *path) {
    if (!below(path) || !full()) return 0;
    errno = ENOSPC;
    return 1;
}

#define NEXT(name) ({ static __typeof__(&name) next; if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name); next; })

ssize_t write(int file, const void *bytes, size_t count) {
    return refused_file(file) ? -1 : NEXT(write)(file, bytes, count);
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    return refused_file(file) ? -1 : NEXT(writev)(file, parts, count);
}

ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t at) {
    return refused_file(file) ? -1 : NEXT(pwrite64)(file, bytes, count, at);
}

int fsync(int file) {
    return refused_file(file) ? -1 : NEXT(fsync)(file);
}

int mkdir(const char *path, mode_t mode) {
    return refused_path(path) ? -1 : NEXT(mkdir)(path, mode);
}

/* Rust opens files with open64, C code with open. A new file needs room, an old one does not. */
#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...) {                                                                       \
        mode_t mode = 0;                                                                                               \
        if (flags & O_CREAT) {                                                                                         \
            va_list more;                                                                                              \
            va_start(more, flags);                                                                                     \
            mode = va_arg(more, mode_t);                                                                               \
            va_end(more);                                                                                              \
            if (refused_path(path)) return -1;                                                                         \
        }                                                                                                              \
        return NEXT(name)(path, flags, mode);                                                                          \
    }
OPEN(open)
OPEN(open64)
