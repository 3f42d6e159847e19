/* Runs every kernel of every table of this CPU, on arrays beside guard pages, for all short lengths and lengths around
 * the limits of other code paths. All tables must give the same bits, also in place and with non-temporal stores.
 * 16-bit tensors must give the bits of float32 tensors of the same numbers, rounded once.
 *
 *     driver LENGTHS THREADS [OP]     LENGTHS: all, few (for emulators), smoke (for valgrind);
 *                                     THREADS: 1 to 16; OP: only this op
 *
 * Prints one line per op and type of tensors: their names, the hash of the results, the number of trials, and the
 * tables. Exit code 0; 1 if two trials that must agree do not, or a sentinel changed; 3 if a guard page or a protected
 * input was accessed. */
#define _GNU_SOURCE
#include "float_mode.h"
#include "trials.h"

#include <signal.h>

static const char *const type_names[] = {"", ".float16", ".bfloat16"};

static const op *current_op;
static trial current;

static void tell(const char *what)
{
    static const char *const places[] = {"on the heap", "behind a guard page", "before a guard page"};
    fprintf(stderr, "driver: %s: %s%s %s, rows %td, n %td, values %d, %s, plain %d, stream %d, in place %d\n", what,
            current_op->name, type_names[current.stored], current.kernels->isa, current.rows, current.n,
            (int)current.values, places[place], current.plain, current.stream, current.in_place);
}

static void on_fault(int signal)
{
    (void)signal;
    tell("memory fault"); /* fprintf is unsafe in a handler, but the process ends here */
    _exit(3);
}

static int n_tables(void)
{
    int n = 0;
    while (creg_kernels_ranked(n)) n++;
    return n;
}

/* Runs a trial, which must give the hash of the first. Returns whether it did. */
static int agrees(const op *o, trial t, int first, uint64_t *hash)
{
    current = t;
    const int whole = run_trial(o, &current);
    if (first) *hash = current.hash;
    if (!whole) tell("a byte beside an array was written");
    if (current.hash != *hash) tell("other bits than the first trial");
    return whole && current.hash == *hash;
}

/* Whether a way of a trial is tried at this place: 16-bit tensors are in each way at one place, in turn. */
static int is_placed_here(const trial *t, int rank)
{
    return t->type == CREG_FLOAT32 || (t->n + rank + t->stream + t->in_place) % (AT_END + 1) == (ptrdiff_t)place;
}

/* Runs a trial in all ways, which must agree. Returns their number, or -1. */
static int all_ways(const op *o, trial t, uint64_t *hash)
{
    int trials = 0;
    place = ON_HEAP;
    if (t.type != CREG_FLOAT32 && !agrees(o, as_float32(t), trials++ == 0, hash)) return -1;
    for (int rank = n_tables() - 1; rank >= 0; rank--)
        for (t.stream = 0; t.stream < o->streams; t.stream++)
            for (t.in_place = 0; t.in_place <= o->in_place; t.in_place++)
                for (place = ON_HEAP; place <= AT_END; place++) {
                    if (!is_placed_here(&t, rank)) continue;
                    t.kernels = creg_kernels_ranked(rank)->stored[t.type];
                    if (!agrees(o, t, trials++ == 0, hash)) return -1;
                }
    return trials;
}

typedef enum { ALL, FEW, SMOKE, UNKNOWN } lengths;

static lengths lengths_of(const char *name)
{
    return !strcmp(name, "all") ? ALL : !strcmp(name, "few") ? FEW : !strcmp(name, "smoke") ? SMOKE : UNKNOWN;
}

static int is_tried(ptrdiff_t n, lengths which)
{
    if (which == SMOKE) return n == 1 || n == 65 || n == 130;
    if (which == FEW) return n == 1 || n == 15 || n == 65 || n == 130 || n == 257 || n == 4099;
    static const ptrdiff_t edges[] = {256, 1024, 4096};
    int tried = n <= 130;
    for (int i = 0; i < 3; i++) tried |= n >= edges[i] - 4 && n <= edges[i] + 4;
    return tried;
}

/* 16-bit tensors take two thirds of the values of each length. */
static int skips(int type, ptrdiff_t n, int values) { return type != CREG_FLOAT32 && (type + n + values) % 3 == 0; }

/* Tries an op on tensors of a type, and prints a line. Returns whether all trials agreed. */
static int try_op(const op *o, int type, lengths which)
{
    trial whole = {.hash = 0};
    long trials = 0;
    current_op = o;
    for (ptrdiff_t n = 1; n <= 4100; n++)
        for (int values = 0; is_tried(n, which) && values < KINDS; values++) {
            if (skips(type, n, values)) continue;
            const trial base = {.type = type,
                                .stored = type,
                                .rows = n > 300 ? 3 : 5,
                                .n = n,
                                .values = (kind)values,
                                .plain = values == OFFSET,
                                .seed = 0x5EED00000000u * (uint64_t)(values + 1) + (uint64_t)n,
                                .p = n % 3 ? 0.3 : 0.9,
                                .eps = values == TINY_VALUES ? 0.0 : 1e-5};
            uint64_t hash = 0;
            const int ways = all_ways(o, base, &hash);
            if (ways < 0) return 0;
            trials += ways;
            hash_word(&whole, hash);
        }
    printf("%s%s %016llx %ld", o->name, type_names[type], (unsigned long long)whole.hash, trials);
    for (int rank = 0; creg_kernels_ranked(rank); rank++) printf(" %s", creg_kernels_ranked(rank)->isa);
    printf("\n");
    fflush(stdout);
    return 1;
}

int main(int argc, char **argv)
{
    const lengths which = argc > 1 ? lengths_of(argv[1]) : UNKNOWN;
    const char *only = argc == 4 ? argv[3] : NULL;
    if (argc < 3 || argc > 4 || which == UNKNOWN) die("usage: driver all|few|smoke THREADS [OP]");
    threads = atoi(argv[2]);
    if (threads < 1 || threads > 16) die("THREADS must be from 1 to 16");
    signal(SIGSEGV, on_fault);
#ifdef SIGBUS
    signal(SIGBUS, on_fault);
#endif
    const uint64_t mode = creg_float_mode_enter();
    for (int i = 0; i < OPS; i++) {
        if (only && strcmp(only, ops[i].name)) continue;
        for (int type = CREG_FLOAT32; type <= CREG_BFLOAT16; type++)
            if (takes(&ops[i], type) && !try_op(&ops[i], type, which)) return 1;
    }
    creg_float_mode_leave(mode);
    return 0;
}
