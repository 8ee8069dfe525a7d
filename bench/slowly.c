/* Preloaded into a server that runs under callgrind, which makes it some fifty times slower: its clock goes SLOWER times
   (a variable of its environment) as slow, and it waits SLOWER times as long. So it sees the load, and the groups in
   which events come, that it would see without callgrind. The time of day goes as slowly, from where it is at the start. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <time.h>

#define NS 1000000000LL
#define TIME_OF_DAY_S 1000000000LL

static long long slower = 1;
static long long day_began_ns;

static long long ns_of(const struct timespec *at) { return at->tv_sec * NS + at->tv_nsec; }

static struct timespec timespec_of(long long ns) { return (struct timespec){.tv_sec = ns / NS, .tv_nsec = ns % NS}; }

static int real_clock(clockid_t clock, struct timespec *at) {
    static int (*next)(clockid_t, struct timespec *);
    if (!next) next = dlsym(RTLD_NEXT, "clock_gettime");
    return next(clock, at);
}

__attribute__((constructor)) static void read_slower(void) {
    const char *set = getenv("SLOWER");
    if (set && atoll(set) > 0) slower = atoll(set);
    struct timespec now;
    real_clock(CLOCK_REALTIME, &now);
    day_began_ns = ns_of(&now);
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    int failed = real_clock(clock, at);
    if (!failed && (clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_COARSE || clock == CLOCK_MONOTONIC_RAW))
        *at = timespec_of(ns_of(at) / slower);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        *at = timespec_of(day_began_ns + (ns_of(at) - day_began_ns) / slower);
    return failed;
}

/* When a wait until `slow`, in the slowed time, is over. */
static struct timespec deadline(const struct timespec *slow) {
    struct timespec now;
    real_clock(CLOCK_MONOTONIC, &now);
    return timespec_of(ns_of(&now) + (ns_of(slow) - ns_of(&now) / slower) * slower);
}

static int longer(int timeout_ms) { return timeout_ms > 0 ? (int)(timeout_ms * slower) : timeout_ms; }

int epoll_wait(int fd, struct epoll_event *events, int max, int timeout_ms) {
    static int (*next)(int, struct epoll_event *, int, int);
    if (!next) next = dlsym(RTLD_NEXT, "epoll_wait");
    return next(fd, events, max, longer(timeout_ms));
}

int epoll_pwait(int fd, struct epoll_event *events, int max, int timeout_ms, const sigset_t *mask) {
    static int (*next)(int, struct epoll_event *, int, int, const sigset_t *);
    if (!next) next = dlsym(RTLD_NEXT, "epoll_pwait");
    return next(fd, events, max, longer(timeout_ms), mask);
}

int sem_clockwait(sem_t *sem, clockid_t clock, const struct timespec *until) {
    static int (*next)(sem_t *, clockid_t, const struct timespec *);
    if (!next) next = dlsym(RTLD_NEXT, "sem_clockwait");
    struct timespec real = clock == CLOCK_MONOTONIC ? deadline(until) : *until;
    return next(sem, clock, &real);
}

int pthread_cond_clockwait(pthread_cond_t *cond, pthread_mutex_t *mutex, clockid_t clock, const struct timespec *until) {
    static int (*next)(pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *);
    if (!next) next = dlsym(RTLD_NEXT, "pthread_cond_clockwait");
    struct timespec real = clock == CLOCK_MONOTONIC ? deadline(until) : *until;
    return next(cond, mutex, clock, &real);
}

/* Which clock a condition goes by is not to be asked: a time before 2001 is a monotonic one. */
int pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *until) {
    static int (*next)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    if (!next) next = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!next) next = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    struct timespec real = until->tv_sec < TIME_OF_DAY_S ? deadline(until) : *until;
    return next(cond, mutex, &real);
}
