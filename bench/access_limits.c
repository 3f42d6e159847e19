/* Kernels with the loads and stores of an op and hardly any arithmetic: the limit that memory sets to the op. Used by
 * access_limits.py, on one thread. `stream`: non-temporal stores, as the ops have beyond the LLC. */
#include <immintrin.h>
#include <stddef.h>

typedef float vf __attribute__((vector_size(64)));
typedef float vf_in_memory __attribute__((vector_size(64), aligned(4), may_alias));
enum { W = 16, AHEAD = 2048, TASK = 16384 };

static inline vf load(const float *p) { return *(const vf_in_memory *)p; }

static inline void put(float *p, vf v, int stream)
{
    if (stream)
        for (int k = 0; k < 4; k++) _mm_stream_ps(p + 4 * k, ((const __m128 *)&v)[k]);
    else
        *(vf_in_memory *)p = v;
}

/* Reads n elements of x, and of dy unless it is NULL. */
static inline vf read_pass(const float *x, const float *dy, ptrdiff_t n)
{
    vf a = {0}, b = {0};
    for (ptrdiff_t j = 0; j < n; j += W) {
        a += load(x + j);
        if (dy) b += load(dy + j);
    }
    return a + b;
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
    vf sum = {0};
    for (ptrdiff_t i = 0; i < rows; i++, x += n, out += n) {
        sum += read_pass(x, dy, n);
        write_pass(x, dy, out, n, stream);
        if (dy) dy += n;
    }
    if (stream) _mm_sfence();
    return sum[0];
}

/* A norm of columns: all is read, then read again and written, task by task from the end on. */
float by_columns(const float *x, const float *dy, float *out, ptrdiff_t rows, ptrdiff_t n, int stream)
{
    vf sum = read_pass(x, dy, rows * n);
    for (ptrdiff_t end = rows * n, at; end > 0; end = at) {
        at = end > TASK ? end - TASK : 0;
        write_pass(x + at, dy ? dy + at : NULL, out + at, end - at, stream);
    }
    if (stream) _mm_sfence();
    return sum[0];
}
