/* Selects the instruction sets that the CPU has and whose registers the operating system saves. */
#include "cregkit.h"

#include <string.h>

#ifdef CREG_X86
#include <cpuid.h>

extern const creg_kernels creg_kernels_avx2_float32, creg_kernels_avx512_float32;

/* The registers that the operating system saves on a context switch. Others must not be used. */
static uint64_t saved_registers(void)
{
    unsigned eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_OSXSAVE)) return 0;
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static int cpu_has(const creg_kernels *table)
{
    const uint64_t ymm = 0x6, zmm = 0xE6; /* XCR0: SSE and AVX state; and mask registers and both halves of zmm */
    const unsigned avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    unsigned eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_F16C)) return 0;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return 0;
    if (table == &creg_kernels_avx2_float32) return (ebx & bit_AVX2) && (saved_registers() & ymm) == ymm;
    return (ebx & avx512) == avx512 && (saved_registers() & zmm) == zmm;
}

void creg_cpu_name(char name[49])
{
    unsigned words[12] = {0};
    for (unsigned i = 0; i < 3; i++)
        if (!__get_cpuid(0x80000002u + i, words + 4 * i, words + 4 * i + 1, words + 4 * i + 2, words + 4 * i + 3))
            break;
    memcpy(name, words, 48);
    name[48] = '\0';
}

#else

void creg_cpu_name(char name[49]) { name[0] = '\0'; }

#ifdef CREG_ARM64
extern const creg_kernels creg_kernels_neon_float32;
#endif
#endif

extern const creg_kernels creg_kernels_scalar_float32;

const creg_kernels *creg_kernels_ranked(int rank)
{
    const creg_kernels *usable[4];
    int n = 0;
#ifdef CREG_X86
    if (cpu_has(&creg_kernels_avx512_float32)) usable[n++] = &creg_kernels_avx512_float32;
    if (cpu_has(&creg_kernels_avx2_float32)) usable[n++] = &creg_kernels_avx2_float32;
#endif
#ifdef CREG_ARM64
    usable[n++] = &creg_kernels_neon_float32;
#endif
    usable[n++] = &creg_kernels_scalar_float32;
    return rank >= 0 && rank < n ? usable[rank] : NULL;
}
