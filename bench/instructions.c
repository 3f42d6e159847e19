/* Counts the instructions of a call by the trap flag: while it is set, the CPU traps after each instruction, and the
 * system sends SIGTRAP. x86-64 Linux only. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <ucontext.h>

enum { TRAP_FLAG = 0x100 };

/* Of Python: declared here, so that the compiler needs no headers of it. */
extern void *PyObject_CallNoArgs(void *callable);

/* The instructions in [low, high), and those elsewhere. */
typedef struct {
    uintptr_t low, high;
    int64_t inside, outside;
} instructions;

static instructions *counted;
static uintptr_t last;

/* `address` is that of the instruction to come. A repeated string instruction traps after each of its steps. */
static void on_trap(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)info;
    const uintptr_t address = (uintptr_t)((const ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    if (address == last) return;
    last = address;
    if (address >= counted->low && address < counted->high)
        counted->inside++;
    else
        counted->outside++;
}

/* Calls a callable of Python and adds up its instructions. Needs the GIL; one call at a time. */
void *count_instructions(void *callable, instructions *counts)
{
    struct sigaction count = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO}, before;
    counted = counts;
    sigaction(SIGTRAP, &count, &before);
    __builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() | TRAP_FLAG);
    void *result = PyObject_CallNoArgs(callable);
    __builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() & ~(unsigned long long)TRAP_FLAG);
    sigaction(SIGTRAP, &before, NULL);
    return result;
}
