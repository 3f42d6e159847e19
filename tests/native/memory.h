/* Memory that detects accesses beyond the arrays of a trial.
 *
 * AT_START and AT_END place an array directly after, or directly before, a guard page, with sentinel bytes on its other
 * side; inputs are write-protected while a kernel runs. ON_HEAP allocates the exact size with malloc, for
 * AddressSanitizer and valgrind; outputs there stay uninitialised, so that these tools detect elements that a kernel
 * does not write.
 */
#ifndef MEMORY_H
#define MEMORY_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pages.h"

enum { REGIONS = 40, SENTINELS = 256 };

static const size_t region_bytes = (size_t)1 << 20;
static const unsigned char sentinel = 0xA5;

typedef enum { ON_HEAP, AT_START, AT_END } placement;

typedef struct {
    unsigned char *data, *start; /* start: the first byte after the leading guard page */
    size_t bytes;
    int input;
} region;

static region regions[REGIONS];
static int used;
static placement place;

static void die(const char *what)
{
    fprintf(stderr, "driver: %s\n", what);
    exit(2);
}

static unsigned char *new_region(void)
{
    const size_t page = page_bytes();
    unsigned char *whole = new_pages(region_bytes + 2 * page);
    if (!whole) die("no memory");
    if (!set_rights(whole, page, NO_ACCESS) || !set_rights(whole + page + region_bytes, page, NO_ACCESS))
        die("the system refuses guard pages");
    return whole + page;
}

static void *take(size_t bytes, int input)
{
    if (used == REGIONS || bytes > region_bytes - SENTINELS) die("a trial needs more memory than a region has");
    region *r = &regions[used++];
    r->bytes = bytes;
    r->input = input;
    if (place == ON_HEAP) return r->data = malloc(bytes ? bytes : 1);
    if (!r->start) r->start = new_region();
    r->data = place == AT_START ? r->start : r->start + region_bytes - bytes;
    memset(r->data, 0x7E, bytes);
    memset(place == AT_START ? r->data + bytes : r->data - SENTINELS, sentinel, SENTINELS);
    return r->data;
}

/* Between protect(READ_ONLY) and protect(READ_WRITE), writing to an input faults. */
static void protect(rights to)
{
    if (place == ON_HEAP) return;
    for (int i = 0; i < used; i++)
        if (regions[i].input && !set_rights(regions[i].start, region_bytes, to)) die("the system refuses to protect");
}

/* Frees all arrays. Returns whether all sentinels are unchanged. */
static int give_back(void)
{
    int whole = 1;
    for (int i = 0; i < used; i++) {
        const region *r = &regions[i];
        if (place == ON_HEAP) {
            free(r->data);
            continue;
        }
        const unsigned char *beside = place == AT_START ? r->data + r->bytes : r->data - SENTINELS;
        for (int j = 0; j < SENTINELS; j++) whole &= beside[j] == sentinel;
    }
    used = 0;
    return whole;
}

#endif
