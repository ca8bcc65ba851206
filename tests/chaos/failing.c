/* Preloaded into the master and its children: system calls that fail, and a wall clock that jumps, in the one process that the
   control file (CHAOS_CONTROL, see calls.py) names, while it says so. Everybody else has the calls as they are. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

struct control {
    volatile int pid, children; /* children: those of pid instead, as long as they are no other program */
    volatile unsigned calls;    /* one bit each, in the order of CALLS in calls.py */
    volatile int error;
    volatile unsigned percent;
    volatile unsigned hits;
    volatile long long clock; /* nanoseconds */
};

enum { FORK = 1, ACCEPT = 2, EPOLL_CTL = 4, OPEN = 8, WRITE = 16, SEND = 32, EXECVE = 64, MEMFD = 128, PIPE = 256, SOCKETPAIR = 512 };

static struct control *control;
static unsigned dice = 1;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("CHAOS_CONTROL");
    int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *mapped = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped != MAP_FAILED)
        control = mapped;
}

static int fails(unsigned call)
{
    if (!control || !(control->calls & call))
        return 0;
    if (control->pid != (control->children ? getppid() : getpid()))
        return 0;
    if (rand_r(&dice) % 100 >= control->percent)
        return 0;
    __sync_fetch_and_add(&control->hits, 1);
    errno = control->error;
    return 1;
}

#define REAL(type, name, ...) ((type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name))
/* One of type `type` called `name`; `call` is its bit, `given` its parameters, and what follows their types. */
#define FAILING(type, name, call, parameters, given, ...) \
    type name parameters                                  \
    {                                                     \
        static type (*real)(__VA_ARGS__);                 \
        if (!real)                                        \
            real = REAL(type, name, __VA_ARGS__);         \
        return fails(call) ? (type)-1 : real given;       \
    }

FAILING(pid_t, fork, FORK, (void), (), void)
FAILING(int, accept4, ACCEPT, (int fd, struct sockaddr *a, socklen_t *n, int f), (fd, a, n, f), int, struct sockaddr *, socklen_t *, int)
FAILING(int, epoll_ctl, EPOLL_CTL, (int e, int op, int fd, struct epoll_event *w), (e, op, fd, w), int, int, int, struct epoll_event *)
FAILING(ssize_t, write, WRITE, (int fd, const void *b, size_t n), (fd, b, n), int, const void *, size_t)
FAILING(ssize_t, send, SEND, (int fd, const void *b, size_t n, int f), (fd, b, n, f), int, const void *, size_t, int)
FAILING(ssize_t, sendmsg, SEND, (int fd, const struct msghdr *m, int f), (fd, m, f), int, const struct msghdr *, int)
FAILING(ssize_t, sendto, SEND, (int fd, const void *b, size_t n, int f, const struct sockaddr *a, socklen_t l), (fd, b, n, f, a, l), int,
        const void *, size_t, int, const struct sockaddr *, socklen_t)
FAILING(int, execve, EXECVE, (const char *p, char *const v[], char *const e[]), (p, v, e), const char *, char *const *, char *const *)
FAILING(int, memfd_create, MEMFD, (const char *n, unsigned f), (n, f), const char *, unsigned)
FAILING(int, pipe2, PIPE, (int fds[2], int f), (fds, f), int *, int)
FAILING(int, socketpair, SOCKETPAIR, (int d, int t, int p, int fds[2]), (d, t, p, fds), int, int, int, int *)

static mode_t mode_of(int flags, va_list rest)
{
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
}

#define OPENING(name)                                                    \
    int name(const char *path, int flags, ...)                           \
    {                                                                    \
        va_list rest;                                                    \
        va_start(rest, flags);                                           \
        mode_t mode = mode_of(flags, rest);                              \
        va_end(rest);                                                    \
        return fails(OPEN) ? -1 : REAL(int, name, const char *, int, ...)(path, flags, mode); \
    }
#define OPENING_AT(name)                                                 \
    int name(int at, const char *path, int flags, ...)                   \
    {                                                                    \
        va_list rest;                                                    \
        va_start(rest, flags);                                           \
        mode_t mode = mode_of(flags, rest);                              \
        va_end(rest);                                                    \
        return fails(OPEN) ? -1 : REAL(int, name, int, const char *, int, ...)(at, path, flags, mode); \
    }
OPENING(open)
OPENING(open64)
OPENING_AT(openat)
OPENING_AT(openat64)

int clock_gettime(clockid_t clock, struct timespec *now)
{
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        real = REAL(int, clock_gettime, clockid_t, struct timespec *);
    int result = real(clock, now);
    if (result == 0 && clock == CLOCK_REALTIME && control && control->clock && control->pid == getpid()) {
        long long sum = now->tv_nsec + control->clock % 1000000000;
        now->tv_sec += control->clock / 1000000000 + (sum >= 1000000000) - (sum < 0);
        now->tv_nsec = sum < 0 ? sum + 1000000000 : sum >= 1000000000 ? sum - 1000000000 : sum;
    }
    return result;
}
