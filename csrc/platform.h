/* What the pool and the parallel loops take from the operating system, POSIX or Windows: memory pages, a lock, a
 * notice of forks, a clock. */
#ifndef CREG_PLATFORM_H
#define CREG_PLATFORM_H

#include <stddef.h>
#include <stdint.h>

typedef void (*creg_notice)(void);

#ifdef _WIN32
#include <windows.h>

typedef SRWLOCK creg_lock;
#define CREG_UNLOCKED SRWLOCK_INIT

static inline void creg_acquire(creg_lock *lock) { AcquireSRWLockExclusive(lock); }
static inline void creg_release(creg_lock *lock) { ReleaseSRWLockExclusive(lock); }

/* Windows has no forks. */
static inline void creg_at_fork(creg_notice before, creg_notice in_parent, creg_notice in_child)
{
    (void)before, (void)in_parent, (void)in_child;
}

static inline int64_t creg_nanoseconds(void)
{
    LARGE_INTEGER now, per_second;
    QueryPerformanceCounter(&now);
    QueryPerformanceFrequency(&per_second);
    const int64_t whole = now.QuadPart / per_second.QuadPart, rest = now.QuadPart % per_second.QuadPart;
    return whole * 1000000000 + rest * 1000000000 / per_second.QuadPart;
}

/* Zeroed pages, or NULL. */
static inline void *creg_pages(size_t size)
{
    return VirtualAlloc(NULL, size, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
}

static inline void creg_free_pages(void *pages, size_t size)
{
    (void)size;
    VirtualFree(pages, 0, MEM_RELEASE);
}

#else
#include <pthread.h>
#include <sys/mman.h>
#include <time.h>

typedef pthread_mutex_t creg_lock;
#define CREG_UNLOCKED PTHREAD_MUTEX_INITIALIZER

static inline void creg_acquire(creg_lock *lock) { pthread_mutex_lock(lock); }
static inline void creg_release(creg_lock *lock) { pthread_mutex_unlock(lock); }

static inline void creg_at_fork(creg_notice before, creg_notice in_parent, creg_notice in_child)
{
    pthread_atfork(before, in_parent, in_child);
}

static inline int64_t creg_nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Zeroed pages, or NULL. Huge pages, where they fit and the system has them, save page faults and TLB misses. mmap,
 * because malloc may not return freed memory: after the first large free, glibc takes blocks of up to 32 MiB from its
 * heap. */
static inline void *creg_pages(size_t size)
{
    const size_t huge = (size_t)1 << 21, spare = size < huge ? 0 : huge;
    char *p = mmap(NULL, size + spare, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    if (spare) {
        const size_t before = huge - 1 - ((uintptr_t)p - 1) % huge;
        if (before) munmap(p, before);
        p += before;
        munmap(p + size, spare - before);
    }
#ifdef MADV_HUGEPAGE
    if (spare) madvise(p, size, MADV_HUGEPAGE);
#endif
    return p;
}

static inline void creg_free_pages(void *pages, size_t size) { munmap(pages, size); }

#endif
#endif
