/* Memory pages whose access rights can change: of POSIX, or of Windows. */
#ifndef PAGES_H
#define PAGES_H

#include <stddef.h>

typedef enum { NO_ACCESS, READ_ONLY, READ_WRITE } rights;

#ifdef _WIN32
#include <windows.h>

static size_t page_bytes(void)
{
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return info.dwPageSize;
}

static void *new_pages(size_t bytes) { return VirtualAlloc(NULL, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE); }

/* Returns whether the system allowed it. */
static int set_rights(void *start, size_t bytes, rights to)
{
    static const DWORD flags[] = {PAGE_NOACCESS, PAGE_READONLY, PAGE_READWRITE};
    DWORD before;
    return VirtualProtect(start, bytes, flags[to], &before) != 0;
}

#else
#include <sys/mman.h>
#include <unistd.h>

static size_t page_bytes(void) { return (size_t)sysconf(_SC_PAGESIZE); }

static void *new_pages(size_t bytes)
{
    void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return start == MAP_FAILED ? NULL : start;
}

/* Returns whether the system allowed it. */
static int set_rights(void *start, size_t bytes, rights to)
{
    static const int flags[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE};
    return mprotect(start, bytes, flags[to]) == 0;
}

#endif
#endif
