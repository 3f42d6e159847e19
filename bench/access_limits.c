/* Kernels with the loads and stores of an op and hardly any arithmetic: the limit that memory sets to the op. Used by
 * access_limits.py, on one thread. `stream`: non-temporal stores, as the ops have beyond the LLC. */
#include <immintrin.h>
#include <stddef.h>

#if defined(__AVX512F__)
enum { BYTES = 64 };
#elif defined(__AVX__)
enum { BYTES = 32 };
#else
enum { BYTES = 16 };
#endif

typedef float vf __attribute__((vector_size(BYTES)));
typedef float vf_in_memory __attribute__((vector_size(BYTES), aligned(4), may_alias));

enum { W = BYTES / sizeof(float), STEP = 32, VECS = STEP / W, AHEAD = 2048, TASK = 16384 };

/* Several accumulators, so that an addition does not wait for the one before. */
typedef struct {
    vf of[VECS];
} sums;

static inline vf load(const float *p) { return *(const vf_in_memory *)p; }

static inline void put(float *p, vf v, int stream)
{
    if (stream)
        for (int k = 0; k < BYTES / 16; k++) _mm_stream_ps(p + 4 * k, ((const __m128 *)&v)[k]);
    else
        *(vf_in_memory *)p = v;
}

/* Reads n elements of x, and of dy unless it is NULL. */
static inline void read_pass(const float *x, const float *dy, ptrdiff_t n, sums *s)
{
    for (ptrdiff_t j = 0; j < n; j += STEP)
        for (int k = 0; k < VECS; k++) {
            s->of[k] += load(x + j + k * W);
            if (dy) s->of[k] += load(dy + j + k * W);
        }
}

static inline float first_of(const sums *s)
{
    vf all = {0};
    for (int k = 0; k < VECS; k++) all += s->of[k];
    return all[0];
}

/* Reads the same elements once more, and writes. */
static inline void write_pass(const float *x, const float *dy, float *out, ptrdiff_t n, int stream)
{
    for (ptrdiff_t j = 0; j < n; j += W) {
        if (stream) __builtin_prefetch(x + j + AHEAD, 0, 2);
        if (stream && dy) __builtin_prefetch(dy + j + AHEAD, 0, 2);
        put(out + j, dy ? load(x + j) + load(dy + j) : load(x + j), stream);
    }
}

/* A norm of rows or groups of n elements: each is read, then read again and written. */
float by_rows(const float *x, const float *dy, float *out, ptrdiff_t rows, ptrdiff_t n, int stream)
{
    sums s = {0};
    for (ptrdiff_t i = 0; i < rows; i++, x += n, out += n) {
        read_pass(x, dy, n, &s);
        write_pass(x, dy, out, n, stream);
        if (dy) dy += n;
    }
    if (stream) _mm_sfence();
    return first_of(&s);
}

/* A norm of columns: all is read, then read again and written, task by task from the end on. */
float by_columns(const float *x, const float *dy, float *out, ptrdiff_t rows, ptrdiff_t n, int stream)
{
    sums s = {0};
    read_pass(x, dy, rows * n, &s);
    for (ptrdiff_t end = rows * n, at; end > 0; end = at) {
        at = end > TASK ? end - TASK : 0;
        write_pass(x + at, dy ? dy + at : NULL, out + at, end - at, stream);
    }
    if (stream) _mm_sfence();
    return first_of(&s);
}
