/* For libFuzzer: bytes become an op, sizes, options and a seed. All tables must give the same bits, also in place and
 * with non-temporal stores, within their arrays. Built with AddressSanitizer and UBSan. */
#include "trials.h"

enum { MOST_ROWS = 8, MOST_N = 5000 };

/* Runs a trial in all ways, which must agree. */
static void try_all_ways(const op *o, trial base)
{
    trial t = as_float32(base);
    if (!run_trial(o, &t)) abort();
    const uint64_t wanted = t.hash;
    for (int rank = 0; creg_kernels_ranked(rank); rank++)
        for (int way = 0; way < (1 + o->in_place) * o->streams; way++) {
            t = base;
            t.kernels = creg_kernels_ranked(rank)->stored[t.type];
            t.stream = way % o->streams;
            t.in_place = way / o->streams;
            if (!run_trial(o, &t)) abort();
            if (t.hash != wanted) abort();
        }
}

/* The largest trials of every op first: bytes that ask for them are rare, and they must fit into a region. */
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    place = AT_END;
    for (int i = 0; i < 18 * OPS; i++) {
        const op *o = &ops[i / 18];
        const int type = i / 6 % 3;
        if (!takes(o, type)) continue;
        const trial largest = {.type = type,
                               .stored = type,
                               .rows = MOST_ROWS,
                               .n = MOST_N - i % 3,
                               .plain = i / 3 % 2,
                               .p = 0.3,
                               .eps = 1e-5};
        try_all_ways(o, largest);
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct {
        uint8_t op, rows, values, options;
        uint16_t n, p, eps;
        uint64_t seed;
    } given = {0};
    if (size < 10) return 0;
    memcpy(&given, data, size < sizeof given ? size : sizeof given);
    place = given.options & 2 ? ON_HEAP : given.options & 4 ? AT_START : AT_END;
    const op *o = &ops[given.op % OPS];
    int type = (given.options >> 3) % 3;
    while (!takes(o, type)) type = (type + 1) % 3;
    try_all_ways(o, (trial){.type = type,
                            .stored = type,
                            .rows = 1 + given.rows % MOST_ROWS,
                            .n = 1 + given.n % MOST_N,
                            .values = (kind)(given.values % KINDS),
                            .plain = given.options & 1,
                            .seed = given.seed,
                            .p = given.p / 65537.0,
                            .eps = given.eps & 1 ? 0.0 : given.eps / 65536.0});
    return 0;
}
