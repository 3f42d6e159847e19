/* For libFuzzer: bytes become an op, sizes, options and a seed. All tables must give the same bits, also in place and
 * with non-temporal stores, within their arrays. Built with AddressSanitizer and UBSan. */
#include "trials.h"

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
    const op *o = &ops[given.op % OPS];
    const trial base = {.rows = 1 + given.rows % 8,
                        .n = 1 + given.n % 5000,
                        .values = (kind)(given.values % KINDS),
                        .plain = given.options & 1,
                        .seed = given.seed,
                        .p = given.p / 65537.0,
                        .eps = given.eps & 1 ? 0.0 : given.eps / 65536.0};
    place = given.options & 2 ? ON_HEAP : given.options & 4 ? AT_START : AT_END;
    uint64_t wanted = 0;
    int first = 1;
    for (int rank = 0; creg_kernels_ranked(rank); rank++)
        for (int way = 0; way < (1 + o->in_place) * o->streams; way++) {
            trial t = base;
            t.kernels = creg_kernels_ranked(rank);
            t.stream = way % o->streams;
            t.in_place = way / o->streams;
            if (!run_trial(o, &t)) abort();
            if (first) wanted = t.hash;
            first = 0;
            if (t.hash != wanted) abort();
        }
    return 0;
}
