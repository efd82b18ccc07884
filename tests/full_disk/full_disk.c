/* A disk that is full at the n-th call that takes room on it: loaded before libc (LD_PRELOAD), for files below a folder. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static char folder[4096];
static long calls, fails_at;

/* Count calls below a folder from now on, and fail at one of them; 0 fails at none. */
void full_disk_arm(const char *path, long call) {
    strncpy(folder, path, sizeof folder - 1);
    calls = 0;
    fails_at = call;
}

long full_disk_calls(void) { return calls; }

static int is_below(const char *path) { return folder[0] && strncmp(path, folder, strlen(folder)) == 0; }

static int is_full(int below) {
    if (!below) return 0;
    if (++calls != fails_at) return 0;
    errno = ENOSPC;
    return 1;
}

/* A relative path counts by the folder it is in. */
static int path_below(int at, const char *path) {
    char whole[8192], link[64];
    if (path[0] == '/') return is_below(path);
    if (at == AT_FDCWD) return getcwd(whole, sizeof whole) && is_below(whole);
    snprintf(link, sizeof link, "/proc/self/fd/%d", at);
    ssize_t size = readlink(link, whole, sizeof whole - 1);
    if (size < 0) return 0;
    whole[size] = 0;
    return is_below(whole);
}

static int file_below(int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return is_below(path);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                                              \
    int name(const char *path, int flags, ...) {                                \
        va_list rest;                                                           \
        va_start(rest, flags);                                                  \
        mode_t mode = va_arg(rest, mode_t);                                     \
        va_end(rest);                                                           \
        if ((flags & O_CREAT) && is_full(path_below(AT_FDCWD, path))) return -1; \
        return NEXT(name)(path, flags, mode);                                   \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                      \
    int name(int at, const char *path, int flags, ...) {                  \
        va_list rest;                                                     \
        va_start(rest, flags);                                            \
        mode_t mode = va_arg(rest, mode_t);                               \
        va_end(rest);                                                     \
        if ((flags & O_CREAT) && is_full(path_below(at, path))) return -1; \
        return NEXT(name)(at, path, flags, mode);                         \
    }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int file, const void *bytes, size_t size) {
    return is_full(file_below(file)) ? -1 : NEXT(write)(file, bytes, size);
}

ssize_t pwrite64(int file, const void *bytes, size_t size, off64_t place) {
    return is_full(file_below(file)) ? -1 : NEXT(pwrite64)(file, bytes, size, place);
}

int fsync(int file) { return is_full(file_below(file)) ? -1 : NEXT(fsync)(file); }

int ftruncate64(int file, off64_t size) { return is_full(file_below(file)) ? -1 : NEXT(ftruncate64)(file, size); }

int mkdir(const char *path, mode_t mode) {
    return is_full(path_below(AT_FDCWD, path)) ? -1 : NEXT(mkdir)(path, mode);
}

int rename(const char *from, const char *to) {
    return is_full(path_below(AT_FDCWD, to)) ? -1 : NEXT(rename)(from, to);
}

int renameat(int at, const char *from, int there, const char *to) {
    return is_full(path_below(there, to)) ? -1 : NEXT(renameat)(at, from, there, to);
}
