/* The floating-point mode of kernels: IEEE 754's default, round to nearest with subnormals. A process may set other
 * modes per thread, on which bits would depend. enter returns the mode that leave restores. */
#ifndef CREG_FLOAT_MODE_H
#define CREG_FLOAT_MODE_H

#include <stdint.h>

#if defined(__x86_64__)
#include <xmmintrin.h>

/* MXCSR: exceptions masked, round to nearest, no flush to zero, no denormals as zero; status flags are not touched. */
static inline uint64_t creg_float_mode_enter(void)
{
    const unsigned mode = _mm_getcsr(), flags = 0x3F;
    if ((mode & ~flags) != 0x1F80) _mm_setcsr(0x1F80 | (mode & flags));
    return mode;
}
static inline void creg_float_mode_leave(uint64_t mode)
{
    if (((unsigned)mode & ~0x3Fu) != 0x1F80) _mm_setcsr((unsigned)mode);
}

#elif defined(__aarch64__)

static inline uint64_t creg_float_mode_enter(void)
{
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    if (mode) __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0));
    return mode;
}
static inline void creg_float_mode_leave(uint64_t mode)
{
    if (mode) __asm__ volatile("msr fpcr, %0" : : "r"(mode));
}

#else

static inline uint64_t creg_float_mode_enter(void) { return 0; }
static inline void creg_float_mode_leave(uint64_t mode) { (void)mode; }

#endif
#endif
