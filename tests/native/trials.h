/* Trials: each calls kernels of a table as cregkit/kernels/ does, on inputs that are the same on every machine, and
 * hashes the outputs. */
#ifndef TRIALS_H
#define TRIALS_H

#include "cregkit.h"
#include "memory.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>

typedef enum { ORDINARY, OFFSET, HUGE_VALUES, TINY_VALUES, SPECIAL, KINDS } kind;

/* One trial. Its op defines the meaning of rows and n. */
typedef struct {
    const creg_kernels *kernels; /* of tensors of type `stored` */
    int type, stored;            /* tensors hold numbers of `type`, stored as such or as float32 */
    ptrdiff_t rows, n;
    kind values;
    int plain;    /* without the optional arrays */
    int stream;   /* whether stores are non-temporal, or batch norm's CREG_NEAR, CREG_FAR or CREG_STREAM */
    int in_place; /* the output is the input */
    uint64_t seed, hash;
    double p, eps;
} trial;

/* ---- inputs and outputs ---- */

static uint64_t random_state;

static uint64_t random_bits(void) /* SplitMix64 (Steele, Lea and Flood, 2014) */
{
    uint64_t z = random_state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* In [-2, 2), exact in float32. */
static float random_float(void) { return ((float)(random_bits() >> 41) - 0x1p22f) * 0x1p-21f; }

static float special_value(void)
{
    static const uint32_t values[] = {0x7FC00000, 0x7F800000, 0xFF800000, 0x80000000, 0x00000001, 0x7F7FFFFF};
    float value;
    memcpy(&value, &values[random_bits() % (sizeof values / sizeof *values)], sizeof value);
    return value;
}

static float value_of(const trial *t, kind values)
{
    static const struct {
        float offset, huge, tiny;
    } of[] = {{1e6f, 0x1p+110f, 0x1p-120f}, {1e2f, 0x1p+14f, 0x1p-20f}, {1e2f, 0x1p+110f, 0x1p-120f}};
    const float v = random_float();
    switch (values) {
    case OFFSET:
        return of[t->type].offset + v;
    case HUGE_VALUES:
        return v * of[t->type].huge;
    case TINY_VALUES:
        return v * of[t->type].tiny;
    case SPECIAL:
        return random_bits() % 64 ? v : special_value();
    default:
        return v;
    }
}

static float *input(const trial *t, ptrdiff_t n, kind values)
{
    float *a = take(sizeof(float) * (size_t)n, 1);
    for (ptrdiff_t i = 0; i < n; i++) a[i] = value_of(t, values);
    return a;
}

static float *positive_input(ptrdiff_t n) /* in [1/2, 3/2) */
{
    float *a = take(sizeof(float) * (size_t)n, 1);
    for (ptrdiff_t i = 0; i < n; i++) a[i] = 1.0f + random_float() * 0.25f;
    return a;
}

/* An array that a kernel changes in place. */
static float *changed(const trial *t, ptrdiff_t n, kind values)
{
    float *a = take(sizeof(float) * (size_t)n, 0);
    for (ptrdiff_t i = 0; i < n; i++) a[i] = value_of(t, values);
    return a;
}

static float *floats(ptrdiff_t n) { return take(sizeof(float) * (size_t)n, 0); }
static double *doubles(ptrdiff_t n) { return take(sizeof(double) * (size_t)n, 0); }

/* Memory of the driver's own, to be freed. */
static void *scratch(size_t bytes)
{
    void *a = malloc(bytes ? bytes : 1);
    if (!a) die("no memory");
    return a;
}

static void hash_word(trial *t, uint64_t word) /* FNV-1a over whole words */
{
    t->hash = (t->hash ^ word) * 0x100000001B3u;
    t->hash ^= t->hash >> 29;
}

/* All NaN are equal: sign and payload of NaN are not specified. */
static void hash_floats(trial *t, const float *a, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &a[i], sizeof bits);
        hash_word(t, a[i] == a[i] ? bits : 0x7FC00000u);
    }
}

static void hash_halves(trial *t, const uint16_t *a, ptrdiff_t n)
{
    const int infinity = t->type == CREG_FLOAT16 ? 0x7C00 : 0x7F80;
    for (ptrdiff_t i = 0; i < n; i++) hash_word(t, (a[i] & 0x7FFF) > infinity ? 0x7FFFu : a[i]);
}

static void hash_doubles(trial *t, const double *a, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        uint64_t bits;
        memcpy(&bits, &a[i], sizeof bits);
        hash_word(t, a[i] == a[i] ? bits : 0x7FF8000000000000u);
    }
}

/* ---- tensors ---- */

static size_t bytes_of(const trial *t, ptrdiff_t n)
{
    return (t->stored == CREG_FLOAT32 ? sizeof(float) : sizeof(uint16_t)) * (size_t)n;
}

static uint16_t *rounded(const trial *t, const float *x, ptrdiff_t n)
{
    uint16_t *halves = scratch(sizeof *halves * (size_t)n);
    t->kernels->stored[t->type]->from_float32(x, halves, n);
    return halves;
}

/* Rounds x to numbers of t->type, and stores them in y. */
static void store_numbers(const trial *t, const float *x, void *y, ptrdiff_t n)
{
    if (t->type == t->stored) {
        t->kernels->from_float32(x, y, n);
        return;
    }
    uint16_t *halves = rounded(t, x, n);
    t->kernels->stored[t->type]->to_float32(halves, y, n);
    free(halves);
}

static void *filled_tensor(const trial *t, ptrdiff_t n, kind values, int is_input)
{
    void *a = take(bytes_of(t, n), is_input);
    float *numbers = scratch(sizeof *numbers * (size_t)n);
    for (ptrdiff_t i = 0; i < n; i++) numbers[i] = value_of(t, values);
    store_numbers(t, numbers, a, n);
    free(numbers);
    return a;
}

static void *input_tensor(const trial *t, ptrdiff_t n, kind values) { return filled_tensor(t, n, values, 1); }
static void *output_tensor(const trial *t, ptrdiff_t n) { return take(bytes_of(t, n), 0); }

/* x, which the output may overwrite. */
static void *tensor_x(const trial *t, ptrdiff_t n) { return filled_tensor(t, n, t->values, !t->in_place); }
static void *output_for(const trial *t, void *x, ptrdiff_t n) { return t->in_place ? x : output_tensor(t, n); }

/* A copy of x, put back for backward where forward overwrote x. */
static void *kept_copy(const trial *t, const void *x, ptrdiff_t n)
{
    return memcpy(scratch(bytes_of(t, n)), x, bytes_of(t, n));
}
static void put_back(const trial *t, void *copy, void *x, ptrdiff_t n)
{
    if (t->in_place) memcpy(x, copy, bytes_of(t, n));
    free(copy);
}

static void hash_tensor(trial *t, const void *a, ptrdiff_t n)
{
    if (t->type == CREG_FLOAT32)
        hash_floats(t, a, n);
    else if (t->type == t->stored)
        hash_halves(t, a, n);
    else {
        uint16_t *halves = rounded(t, a, n);
        hash_halves(t, halves, n);
        free(halves);
    }
}

/* ---- blocks on several threads ---- */

typedef void block_task(void *args, ptrdiff_t i);

typedef struct {
    block_task *task;
    void *args;
    ptrdiff_t n;
    atomic_long next;
} loop;

static int threads = 1;

static void *work(void *of)
{
    loop *l = of;
    for (ptrdiff_t i; (i = atomic_fetch_add_explicit(&l->next, 1, memory_order_relaxed)) < l->n;) l->task(l->args, i);
    return NULL;
}

static void parallel_for(block_task *task, void *args, ptrdiff_t n)
{
    loop l = {task, args, n, 0};
    pthread_t others[16];
    for (int i = 1; i < threads; i++)
        if (pthread_create(&others[i], NULL, work, &l)) die("pthread_create");
    work(&l);
    for (int i = 1; i < threads; i++) pthread_join(others[i], NULL);
}

static ptrdiff_t at_most(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

/* ---- the norms over rows ---- */

typedef struct {
    const creg_kernels *kernels;
    creg_norm n;
    ptrdiff_t chunks;
} norm_call;

static norm_call norm_of(const trial *t, int kind, ptrdiff_t rows, ptrdiff_t step)
{
    return (norm_call){
        .kernels = t->kernels,
        .n = {.kind = kind,
              .stream = t->stream,
              .stored = t->stored,
              .rows = rows,
              .cols = t->n,
              .eps = t->eps,
              .step = step},
        .chunks = (rows + step - 1) / step,
    };
}

static void take_gain(trial *t, creg_norm *n)
{
    if (t->plain) return;
    n->gamma = positive_input(n->cols);
    n->beta = creg_is_centred(n->kind) ? input(t, n->cols, ORDINARY) : NULL;
}

static void take_statistics(creg_norm *n)
{
    n->mean = creg_is_centred(n->kind) ? doubles(n->rows) : NULL;
    n->rstd = doubles(n->rows);
}

static void take_sums(norm_call *a)
{
    creg_norm *n = &a->n;
    if (!n->gamma) return;
    n->partial_dgamma = floats(a->chunks * n->cols);
    n->dgamma = floats(n->cols);
    if (!creg_is_centred(n->kind)) return;
    n->partial_dbeta = floats(a->chunks * n->cols);
    n->dbeta = floats(n->cols);
}

typedef void rows_kernel(const creg_norm *n, ptrdiff_t first, ptrdiff_t rows);

static void run_chunk(rows_kernel *kernel, const norm_call *a, ptrdiff_t i)
{
    const ptrdiff_t first = i * a->n.step;
    kernel(&a->n, first, at_most(a->n.step, a->n.rows - first));
}

static void norm_chunk(void *args, ptrdiff_t i)
{
    const norm_call *a = args;
    run_chunk(a->n.residual ? a->kernels->dropout_add_norm_forward : a->kernels->norm_forward, a, i);
}

static void norm_grad_chunk(void *args, ptrdiff_t i)
{
    const norm_call *a = args;
    run_chunk(a->n.residual ? a->kernels->dropout_add_norm_backward : a->kernels->norm_backward, a, i);
}

static void merge_half(void *args, ptrdiff_t i)
{
    const norm_call *a = args;
    const ptrdiff_t half = a->n.cols / 2;
    a->kernels->merge_columns(&a->n, i ? half : 0, i ? a->n.cols : half);
}

static void run_backward(norm_call *a)
{
    parallel_for(norm_grad_chunk, a, a->chunks);
    if (a->n.dgamma) parallel_for(merge_half, a, 2);
}

static void hash_output(trial *t, const creg_norm *n)
{
    hash_tensor(t, n->y, n->rows * n->cols);
    if (n->h) hash_tensor(t, n->h, n->rows * n->cols);
    if (n->mean) hash_doubles(t, n->mean, n->rows);
    hash_doubles(t, n->rstd, n->rows);
}

static void hash_sums(trial *t, const creg_norm *n)
{
    if (n->dgamma) hash_floats(t, n->dgamma, n->cols);
    if (n->dbeta) hash_floats(t, n->dbeta, n->cols);
}

static void statistics_chunk(void *args, ptrdiff_t i)
{
    const norm_call *a = args;
    run_chunk(a->kernels->norm_statistics, a, i);
}

/* The call that finds the statistics alone. */
static norm_call statistics_of(const norm_call *a)
{
    norm_call alone = *a;
    take_statistics(&alone.n);
    return alone;
}

/* Whether numbers have the same bits, or are both NaN, whose sign and payload are not promised. */
static int are_same(const double *a, const double *b, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; a && i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a) && !(a[i] != a[i] && b[i] != b[i])) return 0;
    return 1;
}

static void compare_statistics(const creg_norm *n, const creg_norm *alone)
{
    if (are_same(n->mean, alone->mean, n->rows) && are_same(n->rstd, alone->rstd, n->rows)) return;
    fprintf(stderr, "norm_statistics gives other bits than norm_forward\n");
    exit(1);
}

enum { ROWS = 2 };

static void rows_trial(trial *t, int kind)
{
    const ptrdiff_t size = t->rows * t->n;
    norm_call a = norm_of(t, kind, t->rows, ROWS);
    creg_norm *n = &a.n;
    void *x = tensor_x(t, size);
    n->x = x;
    take_gain(t, n);
    n->dy = input_tensor(t, size, ORDINARY);
    n->y = output_for(t, x, size);
    take_statistics(n);
    norm_call alone = statistics_of(&a);
    void *kept = kept_copy(t, x, size);
    protect(READ_ONLY);
    parallel_for(statistics_chunk, &alone, alone.chunks);
    parallel_for(norm_chunk, &a, a.chunks);
    compare_statistics(n, &alone.n);
    hash_output(t, n);

    put_back(t, kept, x, size);
    n->dx = output_for(t, x, size);
    take_sums(&a);
    run_backward(&a);
    protect(READ_WRITE);
    hash_tensor(t, n->dx, size);
    hash_sums(t, n);
}

static void layer_norm_trial(trial *t) { rows_trial(t, CREG_LAYER_NORM); }
static void rms_norm_trial(trial *t) { rows_trial(t, CREG_RMS_NORM); }

/* ---- the same norms over rows that lie across memory: two blocks ---- */

static void across_trial(trial *t, int kind)
{
    creg_norm n = {.kind = kind, .stream = t->stream, .stored = t->stored, .eps = t->eps};
    n.across = t->n, n.rows = 2 * t->n;
    n.cols = t->n > 300 ? 5 : 70;
    const ptrdiff_t size = n.rows * n.cols, tasks = t->kernels->channel_norm_plan(&n);
    void *x = tensor_x(t, size);
    n.x = x;
    take_gain(t, &n);
    n.dy = input_tensor(t, size, ORDINARY);
    n.y = output_for(t, x, size);
    take_statistics(&n);
    void *kept = kept_copy(t, x, size);
    protect(READ_ONLY);
    parallel_for(t->kernels->channel_norm_forward, &n, tasks);
    hash_output(t, &n);

    put_back(t, kept, x, size);
    n.dx = output_for(t, x, size);
    n.sums = t->plain ? NULL : doubles(2 * tasks * n.cols);
    n.dgamma = t->plain ? NULL : floats(n.cols);
    n.dbeta = t->plain || !creg_is_centred(kind) ? NULL : floats(n.cols);
    parallel_for(t->kernels->channel_norm_backward, &n, tasks);
    if (n.dgamma) parallel_for(t->kernels->channel_norm_reduce, &n, 1);
    protect(READ_WRITE);
    hash_tensor(t, n.dx, size);
    hash_sums(t, &n);
}

static void across_layer_norm_trial(trial *t) { across_trial(t, CREG_LAYER_NORM); }
static void across_rms_norm_trial(trial *t) { across_trial(t, CREG_RMS_NORM); }

static creg_dropout dropout_of(const trial *t)
{
    const uint64_t fixed = (uint64_t)(t->p * 0x1p48);
    return (creg_dropout){.key = {(uint32_t)t->seed, (uint32_t)(t->seed >> 32)},
                          .threshold = (int16_t)((int)(fixed >> 32) - 32768),
                          .tie = (uint32_t)fixed,
                          .scale = (float)(1.0 / (1.0 - t->p)),
                          .shift = -0.0f};
}

/* ---- dropout, addition and a norm: enough rows in a chunk for several tiles ---- */

enum { TILED_ROWS = 8 };

/* Plain trials drop nothing (p = 0), trials of tiny values drop everything (p = 1). */
static void residual_trial(trial *t, int kind)
{
    const creg_dropout dropout = dropout_of(t);
    const int drops_all = t->values == TINY_VALUES, centred = creg_is_centred(kind);
    norm_call a = norm_of(t, kind, t->n > 300 ? 9 : 11, TILED_ROWS);
    creg_norm *n = &a.n;
    const ptrdiff_t size = n->rows * n->cols;
    n->offset = t->seed >> 20;
    n->dropout = t->plain ? NULL : &dropout;
    void *x = filled_tensor(t, size, t->values, !(t->in_place && centred));
    void *residual = filled_tensor(t, size, t->values, !(t->in_place && !centred));
    n->x = drops_all ? NULL : x;
    n->residual = residual;
    take_gain(t, n);
    n->dy = input_tensor(t, size, ORDINARY);
    n->dh = t->plain ? NULL : input_tensor(t, size, ORDINARY);
    n->y = output_for(t, centred ? x : residual, size);
    n->h = output_tensor(t, size);
    take_statistics(n);
    n->dropped = t->plain || drops_all ? NULL : output_tensor(t, size);
    n->dx = output_tensor(t, size);
    take_sums(&a);
    if (t->stored != CREG_FLOAT32 && n->cols > CREG_PANEL) n->work = floats(a.chunks * n->cols);
    protect(READ_ONLY);
    parallel_for(norm_chunk, &a, a.chunks);
    if (t->type != t->stored) store_numbers(t, n->h, n->h, size); /* backward reads the rounded h */
    n->x = n->h;
    run_backward(&a);
    protect(READ_WRITE);
    hash_output(t, n);
    if (n->dropped) hash_tensor(t, n->dropped, size);
    hash_tensor(t, n->dx, size);
    hash_sums(t, n);
}

static void dropout_add_layer_norm_trial(trial *t) { residual_trial(t, CREG_LAYER_NORM); }
static void dropout_add_rms_norm_trial(trial *t) { residual_trial(t, CREG_RMS_NORM); }

/* ---- wide rows: all rows by panels, then by tiles ---- */

/* Plain trials run a norm alone; trials of tiny values drop everything. Forward of 16-bit tensors has no residual. */
static void wide_trial(trial *t, int kind)
{
    const creg_dropout dropout = dropout_of(t);
    const int drops_all = t->values == TINY_VALUES, drops = !t->plain && !drops_all;
    const int adds = !t->plain && t->type == CREG_FLOAT32;
    creg_wide_row row[CREG_WIDE_ROWS];
    norm_call a = norm_of(t, kind, at_most(t->rows, CREG_WIDE_ROWS), 1);
    creg_norm *n = &a.n;
    const ptrdiff_t size = n->rows * n->cols, panels = (n->cols + CREG_PANEL - 1) / CREG_PANEL;
    n->wide = row;
    take_statistics(n);
    n->offset = t->seed >> 20;
    void *x = tensor_x(t, size);
    n->x = x;
    n->dy = input_tensor(t, size, ORDINARY);
    n->y = output_for(t, x, size);
    n->panel_sums = doubles(2 * n->rows * panels);
    n->dx = output_tensor(t, size);
    if (adds) {
        n->x = drops_all ? NULL : x;
        n->residual = input_tensor(t, size, t->values);
        n->h = output_tensor(t, size);
    }
    if (!t->plain) {
        n->dh = input_tensor(t, size, ORDINARY);
        take_gain(t, n);
        n->dgamma = floats(n->cols);
        n->dbeta = creg_is_centred(kind) ? floats(n->cols) : NULL;
    }
    if (drops) {
        n->dropout = &dropout;
        n->dropped = output_tensor(t, size);
    }
    void *kept = kept_copy(t, x, size);
    protect(READ_ONLY);
    parallel_for(t->kernels->wide_sums, n, n->rows * panels);
    parallel_for(t->kernels->wide_statistics, n, n->rows);
    parallel_for(t->kernels->wide_write, n, n->rows * panels);
    hash_tensor(t, n->y, size);
    if (n->h) hash_tensor(t, n->h, size);
    put_back(t, kept, x, size);
    if (n->h) n->x = n->h;
    parallel_for(t->kernels->wide_grad_sums, n, n->rows * panels);
    parallel_for(t->kernels->wide_grad_means, n, n->rows);
    parallel_for(t->kernels->wide_grad_tile, n, (n->cols + CREG_TILE - 1) / CREG_TILE);
    protect(READ_WRITE);
    hash_tensor(t, n->dx, size);
    if (n->dropped) hash_tensor(t, n->dropped, size);
    hash_sums(t, n);
    for (ptrdiff_t i = 0; i < n->rows; i++) {
        const double statistics[] = {row[i].mean, row[i].rstd, row[i].mean_g, row[i].mean_g_x_hat};
        hash_doubles(t, statistics, 4);
    }
}

static void wide_layer_norm_trial(trial *t) { wide_trial(t, CREG_LAYER_NORM); }
static void wide_rms_norm_trial(trial *t) { wide_trial(t, CREG_RMS_NORM); }

/* ---- batch norm: one chunk per task, channels in two halves ---- */

static creg_channels new_channels(ptrdiff_t c)
{
    creg_channels ch = {.hi = floats(c),
                        .lo = floats(c),
                        .scale = floats(c),
                        .bias = floats(c),
                        .k1 = floats(c),
                        .k2 = floats(c),
                        .mean = doubles(c),
                        .scale64 = doubles(c),
                        .k1_64 = doubles(c),
                        .k2_64 = doubles(c),
                        .exact = take((size_t)c, 0)};
    memset(ch.exact, 0, (size_t)c);
    return ch;
}

static void halve(creg_cut *cut, ptrdiff_t c, int whole)
{
    cut->chunk_step = whole && cut->chunks ? cut->chunks : 1;
    cut->channel_step = (c + 1) / 2;
    cut->tasks = c == 0 ? 0 : (c + cut->channel_step - 1) / cut->channel_step * (cut->chunks / cut->chunk_step);
}

/* In place, a task takes whole channels. Without gamma, affine has a loop of its own, as in a shared batch. */
static void plan(const trial *t, creg_batch_norm *b)
{
    b->shared = t->plain && !t->in_place;
    t->kernels->batch_norm_plan(b);
    b->whole = t->in_place;
    halve(&b->summed, b->shape.c, b->whole);
    halve(&b->written, b->shape.c, b->whole);
    halve(&b->channelwise, b->shape.c, b->whole);
    b->channels = new_channels(b->shape.c);
}

static void run_batch(trial *t, creg_batch_norm *b)
{
    const creg_kernels *kernels = t->kernels;
    if (b->whole) {
        parallel_for(kernels->batch_norm_whole, b, b->written.tasks);
        return;
    }
    if (b->dy) parallel_for(kernels->batch_norm_centres, b, b->channelwise.tasks);
    parallel_for(kernels->batch_norm_sums, b, b->summed.tasks);
    parallel_for(kernels->batch_norm_merge, b, b->channelwise.tasks);
    if (b->shared) parallel_for(kernels->batch_norm_affine, b, b->channelwise.tasks);
    parallel_for(kernels->batch_norm_apply, b, b->written.tasks);
}

static void batch_forward(trial *t, creg_batch_norm *b)
{
    const ptrdiff_t c = b->shape.c;
    const int training = !b->given_mean;
    b->rstd = doubles(c);
    plan(t, b);
    protect(READ_ONLY);
    if (training) {
        b->var = doubles(c);
        b->chunk_mean = doubles(b->summed.chunks * c);
        b->chunk_m2 = doubles(b->summed.chunks * c);
    }
    run_batch(t, b);
    if (training) {
        b->running_mean = changed(t, c, ORDINARY);
        b->running_var = changed(t, c, ORDINARY);
        parallel_for(t->kernels->batch_norm_update, b, 1);
        hash_doubles(t, b->var, c);
    }
    hash_doubles(t, b->channels.mean, c);
    hash_doubles(t, b->rstd, c);
}

static void batch_backward(trial *t, creg_batch_norm *b)
{
    const ptrdiff_t c = b->shape.c;
    double *mean = b->channels.mean;
    plan(t, b);
    b->channels.mean = mean;
    b->chunk_dy = floats(b->summed.chunks * c);
    b->chunk_dy_d = floats(b->summed.chunks * c);
    run_batch(t, b);
    protect(READ_WRITE);
    if (b->dgamma) hash_floats(t, b->dgamma, c);
    if (b->dbeta) hash_floats(t, b->dbeta, c);
}

static void batch_trial(trial *t, creg_shape shape, int training)
{
    const ptrdiff_t n = shape.n * shape.c * shape.s;
    creg_batch_norm forward = {.shape = shape, .stored = t->stored, .where = t->stream, .eps = t->eps};
    void *x = tensor_x(t, n);
    forward.x = x;
    const void *dy = input_tensor(t, n, ORDINARY);
    forward.gamma = t->plain ? NULL : positive_input(shape.c);
    forward.beta = t->plain ? NULL : input(t, shape.c, ORDINARY);
    forward.given_mean = training ? NULL : input(t, shape.c, t->values);
    forward.given_var = training ? NULL : positive_input(shape.c);
    forward.out = output_for(t, x, n);
    void *kept = kept_copy(t, x, n);
    batch_forward(t, &forward);
    hash_tensor(t, forward.out, n);
    put_back(t, kept, x, n);
    creg_batch_norm backward = forward;
    backward.dy = dy;
    backward.beta = NULL;
    backward.out = output_for(t, x, n);
    backward.dgamma = t->plain ? NULL : floats(shape.c);
    backward.dbeta = t->plain ? NULL : floats(shape.c);
    batch_backward(t, &backward);
    hash_tensor(t, backward.out, n);
}

static creg_shape columns_of(const trial *t) { return (creg_shape){t->n > 300 ? 3 : 7 * t->rows, t->n, 1}; }
static creg_shape planes_of(const trial *t) { return (creg_shape){t->rows, 3, t->n + 1}; }

static void columns_trial(trial *t) { batch_trial(t, columns_of(t), 1); }
static void planes_trial(trial *t) { batch_trial(t, planes_of(t), 1); }
static void columns_inference_trial(trial *t) { batch_trial(t, columns_of(t), 0); }
static void planes_inference_trial(trial *t) { batch_trial(t, planes_of(t), 0); }

/* ---- group norm: two samples (ghost batch norm: virtual batches), one chunk per task, groups in two halves ---- */

static void halve_both(creg_cut *channels, creg_cut *groups, ptrdiff_t g, ptrdiff_t together, int whole)
{
    halve(groups, g, whole);
    const ptrdiff_t step = groups->channel_step;
    halve(channels, g * together, whole);
    channels->channel_step = step * together;
}

/* In place, a task takes whole groups, or channels last, where groups share rows, whole samples. */
static void plan_groups(const trial *t, creg_group_norm *a)
{
    const ptrdiff_t g = a->groups.shape.c, c = a->channels.shape.c;
    t->kernels->group_norm_plan(a);
    if (a->whole && t->in_place && a->groups.shape.n > 1) return;
    a->whole = t->in_place && a->groups.shape.n == 1;
    if (!a->whole) a->channels.channelwise.chunks = a->groups.channelwise.chunks = 1; /* the plan may have been whole */
    halve_both(&a->channels.channelwise, &a->groups.channelwise, g, c / g, a->whole);
    halve_both(&a->channels.summed, &a->groups.summed, g, c / g, a->whole);
    halve_both(&a->channels.written, &a->groups.written, g, c / g, a->whole);
}

static void run_groups(trial *t, creg_group_norm *a)
{
    const creg_kernels *kernels = t->kernels;
    const ptrdiff_t c = a->samples * a->channels.shape.c;
    plan_groups(t, a);
    creg_batch_norm *summed = a->by_channels ? &a->channels : &a->groups;
    const ptrdiff_t sums = a->samples * summed->summed.chunks * summed->shape.c;
    if (!a->channels.dy) {
        a->channels.channels = new_channels(c);
        a->channels.rstd = doubles(c);
        a->channels.var = doubles(c);
    }
    summed->chunk_mean = a->channels.dy ? NULL : doubles(sums);
    summed->chunk_m2 = a->channels.dy ? NULL : doubles(sums);
    summed->chunk_dy = a->channels.dy ? floats(sums) : NULL;
    summed->chunk_dy_d = a->channels.dy ? floats(sums) : NULL;
    if (a->whole) {
        const ptrdiff_t steps = (a->samples + a->sample_step - 1) / a->sample_step;
        parallel_for(kernels->group_norm_whole, a, steps * a->groups.channelwise.tasks);
        return;
    }
    if (a->channels.dy) parallel_for(kernels->group_norm_centres, a, a->samples * a->groups.channelwise.tasks);
    parallel_for(kernels->group_norm_sums, a, a->samples * summed->summed.tasks);
    parallel_for(kernels->group_norm_merge, a, a->samples * a->groups.channelwise.tasks);
    parallel_for(kernels->group_norm_apply, a, a->samples * a->channels.written.tasks);
}

static void group_trial(trial *t, creg_shape channels, ptrdiff_t groups)
{
    const ptrdiff_t together = channels.c / groups, samples = 2, n = samples * channels.n * channels.c * channels.s;
    creg_group_norm a = {.samples = samples};
    void *x = tensor_x(t, n);
    const void *dy = input_tensor(t, n, ORDINARY);
    a.channels.stored = a.groups.stored = t->stored;
    a.channels.shape = channels;
    a.groups.shape = (creg_shape){channels.n, groups, together * channels.s};
    a.channels.where = a.groups.where = t->stream;
    a.groups.eps = t->eps;
    a.channels.x = a.groups.x = x;
    a.channels.gamma = t->plain ? NULL : positive_input(channels.c);
    a.channels.beta = t->plain ? NULL : input(t, channels.c, ORDINARY);
    a.channels.out = output_for(t, x, n);
    a.groups.channels.mean = doubles(samples * groups);
    a.groups.channels.exact = take((size_t)(samples * groups), 0);
    memset(a.groups.channels.exact, 0, (size_t)(samples * groups));
    a.groups.rstd = doubles(samples * groups);
    a.groups.var = doubles(samples * groups);
    void *kept = kept_copy(t, x, n);
    run_groups(t, &a);
    hash_tensor(t, a.channels.out, n);
    hash_doubles(t, a.groups.channels.mean, samples * groups);
    hash_doubles(t, a.groups.rstd, samples * groups);
    put_back(t, kept, x, n);
    a.channels.dy = dy;
    a.channels.out = output_for(t, x, n);
    memset(a.groups.channels.exact, 0, (size_t)(samples * groups));
    a.dgamma = t->plain ? NULL : floats(channels.c);
    a.dbeta = t->plain ? NULL : floats(channels.c);
    a.sums_dy = t->plain ? NULL : doubles(samples * channels.c);
    a.sums_dy_x_hat = t->plain ? NULL : doubles(samples * channels.c);
    run_groups(t, &a);
    hash_tensor(t, a.channels.out, n);
    if (!a.dgamma) return;
    parallel_for(t->kernels->group_norm_reduce, &a, (channels.c + CREG_MERGE_TILE - 1) / CREG_MERGE_TILE);
    hash_floats(t, a.dgamma, channels.c);
    hash_floats(t, a.dbeta, channels.c);
}

static void group_planes_trial(trial *t) { group_trial(t, (creg_shape){1, t->n > 300 ? 2 : 20, t->n}, 2); }
static void group_columns_trial(trial *t)
{
    group_trial(t, (creg_shape){t->n > 40 ? 3 : 67, 2 * t->n, 1}, t->n % 3 ? 2 : t->n);
}
static void ghost_columns_trial(trial *t) { group_trial(t, (creg_shape){t->n > 40 ? 3 : 67, t->n, 1}, t->n); }
static void ghost_planes_trial(trial *t)
{
    const creg_shape shape = {3, t->n > 300 ? 2 : 5, t->n};
    group_trial(t, shape, shape.c);
}

/* ---- elements, in two blocks ---- */

/* n elements, in rows of `cols`; `rows` rows share their decisions. */
static creg_dropout_items items_of(const trial *t, ptrdiff_t n, ptrdiff_t rows, ptrdiff_t cols)
{
    return (creg_dropout_items){.dropout = dropout_of(t),
                                .decides = CREG_DRAWS,
                                .stream = t->stream,
                                .stored = t->stored,
                                .first = t->seed >> 20,
                                .n = n,
                                .rows = rows,
                                .cols = cols,
                                .block = (n / cols + 1) / 2 * cols};
}

static void dropped_trial(trial *t, block_task *task, creg_dropout_items a)
{
    void *x = tensor_x(t, a.n);
    a.x = x;
    a.y = output_for(t, x, a.n);
    protect(READ_ONLY);
    parallel_for(task, &a, 2);
    protect(READ_WRITE);
    hash_tensor(t, a.y, a.n);
}

static void dropout_trial(trial *t) { dropped_trial(t, t->kernels->dropout_forward, items_of(t, t->n, 1, 1)); }

static void spatial_dropout_trial(trial *t)
{
    const ptrdiff_t channels = t->n > 300 ? 5 : 133;
    dropped_trial(t, t->kernels->dropout_items_forward, items_of(t, channels * t->n, t->n, 1));
}

static creg_dropout_items shifted(creg_dropout_items a)
{
    a.dropout.shift = 0.3f;
    a.dropout.fill = -0.7f;
    return a;
}

static void alpha_dropout_trial(trial *t)
{
    dropped_trial(t, t->kernels->dropout_by_mask, shifted(items_of(t, t->n, 1, 1)));
}

static void feature_alpha_dropout_trial(trial *t)
{
    dropped_trial(t, t->kernels->dropout_items_forward, shifted(items_of(t, 7 * t->n, t->n, 1)));
}

static void dropout_channels_last_trial(trial *t)
{
    const ptrdiff_t rows = t->n > 40 ? 5 : 133; /* several rows fit into a panel */
    dropped_trial(t, t->kernels->dropout_channels_last, items_of(t, 3 * rows * t->n, rows, t->n));
}

/* The mask of three planes in two tasks, then its use. */
static void drop_block_trial(trial *t)
{
    creg_drop_block b = {.height = at_most(t->rows, 5), .width = t->n, .pixel = t->plain ? 3 : 1};
    const ptrdiff_t plane = b.height * b.width * b.pixel, n = 3 * plane;
    b.side = at_most(1 + t->n % 4, at_most(b.height, b.width));
    b.items = items_of(t, n, 1, 1);
    b.items.keep = take((size_t)n, 0);
    b.items.block = 2 * plane;
    parallel_for(t->kernels->drop_block_mask, &b, 2);
    hash_word(t, (uint64_t)b.kept);
    dropped_trial(t, t->kernels->dropout_by_mask, b.items);
}

static void dropout_keep_trial(trial *t)
{
    creg_dropout_items a = items_of(t, t->n, 1, 1);
    a.keep = take((size_t)t->n, 0);
    parallel_for(t->kernels->dropout_keep, &a, 2);
    for (ptrdiff_t i = 0; i < t->n; i++) hash_word(t, a.keep[i]);
}

static void squares_trial(trial *t, float clipvalue)
{
    creg_l2 a = {.w = input(t, t->n, t->values), .n = t->n, .n_panels = (t->n + CREG_PANEL - 1) / CREG_PANEL};
    a.panels = doubles(a.n_panels), a.clipvalue = clipvalue;
    protect(READ_ONLY);
    parallel_for(t->kernels->sum_squares, &a, a.n_panels);
    parallel_for(t->kernels->l2_penalty, &a, 1);
    protect(READ_WRITE);
    hash_doubles(t, a.panels, a.n_panels);
}

static void l2_penalty_trial(trial *t) { squares_trial(t, 0.0f); }
static void clipped_squares_trial(trial *t) { squares_trial(t, 0.7f); }

static void l2_gradient_trial(trial *t)
{
    float *w = t->in_place ? changed(t, t->n, t->values) : input(t, t->n, t->values);
    creg_l2 a = {.w = w, .n = t->n, .block = (t->n + 1) / 2, .weight_decay = (double)0.37f, .stream = t->stream};
    a.dw = t->in_place ? w : floats(t->n);
    protect(READ_ONLY);
    parallel_for(t->kernels->l2_gradient, &a, 2);
    protect(READ_WRITE);
    hash_floats(t, a.dw, t->n);
}

/* All that a step does besides its update. */
static creg_modifiers modifiers_of(trial *t)
{
    creg_modifiers m = {.clipvalue = 0.7f, .scale = 0.6f, .threshold = 0.1f, .share = 0.2f, .any = 1};
    m.from_weights = t->plain, m.average = changed(t, t->n, ORDINARY);
    return m;
}

static void sgd_trial(trial *t, int modifies)
{
    const float *dw = input(t, t->n, ORDINARY);
    creg_sgd a = {.w = changed(t, t->n, t->values), .dw = dw, .n = t->n, .block = (t->n + 1) / 2};
    a.lr = 0.05f, a.weight_decay = 0.01f, a.momentum = 0.9f;
    a.velocity = t->plain ? NULL : changed(t, t->n, ORDINARY);
    if (modifies) a.modifiers = modifiers_of(t);
    protect(READ_ONLY);
    parallel_for(t->kernels->sgd_step, &a, 2);
    protect(READ_WRITE);
    hash_floats(t, a.w, t->n);
    if (a.velocity) hash_floats(t, a.velocity, t->n);
    if (modifies) hash_floats(t, a.modifiers.average, t->n);
}

static void sgd_step_trial(trial *t) { sgd_trial(t, 0); }
static void modified_sgd_step_trial(trial *t) { sgd_trial(t, 1); }

static void adamw_trial(trial *t, int modifies)
{
    const float *dw = input(t, t->n, ORDINARY);
    creg_adamw a = {.w = changed(t, t->n, t->values), .dw = dw};
    a.m = changed(t, t->n, ORDINARY);
    a.v = floats(t->n);
    for (ptrdiff_t i = 0; i < t->n; i++) a.v[i] = 1.0f + random_float() * 0.25f;
    a.n = t->n, a.block = (t->n + 1) / 2;
    a.lr = 0.001, a.weight_decay = t->plain ? 0.01 : 1.0, a.betas[0] = 0.9, a.betas[1] = 0.999, a.eps = 1e-8f;
    a.decoupled = !t->plain, a.step = 1000000;
    if (modifies) a.modifiers = modifiers_of(t);
    protect(READ_ONLY);
    parallel_for(t->kernels->adamw_constants, &a, 1);
    a.inv_sqrt_bias2 = 10.0f;
    parallel_for(t->kernels->adamw_step, &a, 2);
    protect(READ_WRITE);
    hash_floats(t, a.w, t->n);
    hash_floats(t, a.m, t->n);
    hash_floats(t, a.v, t->n);
    if (modifies) hash_floats(t, a.modifiers.average, t->n);
}

static void adamw_step_trial(trial *t) { adamw_trial(t, 0); }
static void modified_adamw_step_trial(trial *t) { adamw_trial(t, 1); }

/* Three rows; the limit is within their norms, or far above them. */
static void max_norm_trial(trial *t)
{
    const ptrdiff_t cols = t->n / 3 + 1;
    creg_max_norm a = {.rows = 3, .cols = cols, .block = 2, .limit = t->plain ? 1e30 : sqrt((double)cols)};
    a.w = changed(t, a.rows * cols, t->values);
    if (!t->plain) a.modifiers = (creg_modifiers){.share = 0.2f, .average = changed(t, a.rows * cols, ORDINARY)};
    protect(READ_ONLY);
    parallel_for(t->kernels->limit_norms, &a, 2);
    protect(READ_WRITE);
    hash_floats(t, a.w, a.rows * cols);
    if (a.modifiers.average) hash_floats(t, a.modifiers.average, a.rows * cols);
}

/* ---- samples: noise in two pieces; images of one row and of several, in both layouts ---- */

static void gaussian_noise_trial(trial *t)
{
    float *x = t->in_place ? changed(t, t->n, t->values) : input(t, t->n, t->values);
    const int64_t index = (uint32_t)t->seed;
    const float sigma = 0.7f;
    const ptrdiff_t half = t->n / 2 / CREG_NOISE_GROUP * CREG_NOISE_GROUP;
    creg_noise a = {.key = {(uint32_t)t->seed, (uint32_t)(t->seed >> 32)}, .index = &index, .x = x, .sigma = &sigma};
    a.y = t->in_place ? x : floats(t->n);
    a.samples = 1, a.size = t->n, a.block = half + CREG_NOISE_GROUP;
    a.pieces = (a.size + a.block - 1) / a.block;
    protect(READ_ONLY);
    parallel_for(t->kernels->gaussian_noise, &a, a.pieces);
    protect(READ_WRITE);
    hash_floats(t, a.y, t->n);
}

static void sample_uniform_trial(trial *t)
{
    const uint64_t seed = t->kernels->derived_seed(t->seed, 7);
    const int64_t index = (uint32_t)t->seed;
    creg_noise a = {.key = {(uint32_t)seed, (uint32_t)(seed >> 32)}, .index = &index, .uniform = doubles(t->n)};
    a.samples = 1, a.size = t->n, a.block = 1;
    t->kernels->sample_uniform(&a, 0);
    hash_doubles(t, a.uniform, t->n);
}

/* One image with channels first, one with channels last. `y` has the shape of `x`; a crop has one row and three columns
 * more. */
static void image_trial(trial *t, block_task *task, int crop, int paste)
{
    for (int last = 0; last < 2; last++) {
        creg_images a = {.n = 1, .block = 1, .planes = last ? 1 : 3, .width = t->n, .pixel = last ? 3 : 1};
        a.height = t->n > 300 ? 1 : at_most(t->rows, 3);
        a.size = 3 * a.height * a.width;
        if (a.size == 0) return;
        const int64_t box[4] = {-1, a.width / 3, a.height / 2 + 1, a.width - 1}, corner[2] = {-1, -2};
        const int64_t flips = (int64_t)(t->seed % 4);
        const float factors[4] = {1.3f, 0.6f, 1.7f, -0.3f}, weight = 0.3f;
        const double degrees = (double)(t->seed % 720) - 360.5;
        a.crop_height = a.height + 1, a.crop_width = a.width + 3, a.crop_size = 3 * a.crop_height * a.crop_width;
        const ptrdiff_t size = crop ? a.crop_size : a.size;
        float *x = t->in_place ? changed(t, a.size, t->values) : input(t, a.size, t->values);
        const float *other = input(t, a.size, ORDINARY);
        a.x = x;
        a.y = t->in_place ? x : floats(size);
        a.other = paste ? other : NULL;
        a.geometry = crop ? corner : task == t->kernels->flip_images ? &flips : box;
        a.factors = task == t->kernels->mix_images ? &weight : factors;
        a.degrees = &degrees;
        a.fill = task == t->kernels->rotate_images ? 0.25f : 0.5f;
        a.reflect = t->plain;
        protect(READ_ONLY);
        task(&a, 0);
        protect(READ_WRITE);
        hash_floats(t, a.y, size);
    }
}

static void flip_trial(trial *t) { image_trial(t, t->kernels->flip_images, 0, 0); }
static void box_trial(trial *t) { image_trial(t, t->kernels->box_images, 0, 0); }
static void paste_trial(trial *t) { image_trial(t, t->kernels->box_images, 0, 1); }
static void mix_trial(trial *t) { image_trial(t, t->kernels->mix_images, 0, 1); }
static void jitter_trial(trial *t) { image_trial(t, t->kernels->jitter_images, 0, 0); }
static void crop_trial(trial *t) { image_trial(t, t->kernels->crop_images, 1, 0); }
static void rotate_trial(trial *t) { image_trial(t, t->kernels->rotate_images, 0, 0); }

static int holds_colours(const trial *t, const float *x)
{
    creg_images a = {.n = 1, .block = 1, .size = t->n, .x = x};
    t->kernels->check_colours(&a, 0);
    return !a.out_of_range;
}

static void are_colours_trial(trial *t)
{
    const float *x = input(t, t->n, t->values), *y = positive_input(t->n);
    float *z = changed(t, t->n, ORDINARY);
    for (ptrdiff_t i = 0; i < t->n; i++) z[i] = y[i] - 0.5f; /* in [0, 1) */
    protect(READ_ONLY);
    hash_word(t, (uint64_t)(holds_colours(t, x) + 2 * holds_colours(t, z)));
    protect(READ_WRITE);
}

/* ---- column sums that may overflow float32, and gain and bias in float64 ---- */

static void column_sums_trial(trial *t)
{
    const ptrdiff_t size = t->rows * t->n;
    const creg_kernels *k = t->kernels;
    norm_call a = norm_of(t, CREG_LAYER_NORM, t->rows, ROWS);
    creg_norm *n = &a.n;
    n->dy = input_tensor(t, size, t->values);
    n->x = input_tensor(t, size, ORDINARY);
    n->partial_dgamma = input(t, a.chunks * n->cols, ORDINARY);
    n->partial_dbeta = t->plain ? NULL : input(t, a.chunks * n->cols, ORDINARY);
    double *mean = take(sizeof(double) * (size_t)t->rows, 1), *rstd = take(sizeof(double) * (size_t)t->rows, 1);
    for (ptrdiff_t i = 0; i < t->rows; i++)
        mean[i] = (double)random_float(), rstd[i] = 1.0 + 0.25 * (double)random_float();
    unsigned char *exact = take((size_t)a.chunks, 1);
    for (ptrdiff_t i = 0; i < a.chunks; i++) exact[i] = random_bits() % 2;
    n->mean = t->plain ? NULL : mean;
    n->rstd = rstd;
    n->exact = exact;
    n->dgamma = floats(n->cols);
    n->dbeta = t->plain ? NULL : floats(n->cols);
    n->gamma = t->plain ? NULL : input(t, n->cols, t->values);
    n->beta = input(t, n->cols, t->values);
    n->y = changed(t, size, ORDINARY);
    creg_norm one_chunk = *n, dgamma_alone = *n;
    one_chunk.step = t->rows;
    dgamma_alone.dbeta = NULL;
    protect(READ_ONLY);
    k->merge_columns_exact(n, 0, n->cols / 2);
    k->merge_columns_exact(n, n->cols / 2, n->cols);
    if (t->type == CREG_FLOAT32) k->affine_rows(n, 0, t->rows);
    hash_word(t, (uint64_t)(k->chunk_is_safe(&one_chunk, 0) + 2 * k->sums_were_safe(&dgamma_alone) +
                            4 * k->are_at_most(n->beta, 0x1p+100f, n->cols)));
    protect(READ_WRITE);
    hash_floats(t, n->y, size);
    hash_sums(t, n);
}

/* ---- conversions of every 16-bit number, and of floats beside every boundary of rounding ---- */

enum { NUMBERS = 1 << 16 };

/* The float `places` beyond the middle between number i and the next larger one. */
static float beside_middle(const float *widened, ptrdiff_t i, int places)
{
    if (!isfinite(widened[i])) return widened[i];
    const float gap = isfinite(widened[i + 1]) ? widened[i + 1] - widened[i] : widened[i] - widened[i - 1];
    float v = widened[i] + 0.5f * gap;
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    bits += (uint32_t)places;
    memcpy(&v, &bits, sizeof v);
    return v;
}

static void rounding_trial(trial *t, const float *x)
{
    const creg_kernels *k = t->kernels->stored[t->type];
    uint16_t *y = take(sizeof *y * NUMBERS, 0);
    k->from_float32(x, y, t->n);
    k->from_float32(x + t->n, y + t->n, NUMBERS - t->n);
    hash_halves(t, y, NUMBERS);
}

/* The kind of values selects how far floats lie from a middle: -2 to 2 places. */
static void conversions_trial(trial *t)
{
    const creg_kernels *k = t->kernels->stored[t->type];
    uint16_t *x = take(sizeof *x * NUMBERS, 1);
    float *widened = floats(NUMBERS), *beside = floats(NUMBERS);
    for (ptrdiff_t i = 0; i < NUMBERS; i++) x[i] = (uint16_t)i;
    protect(READ_ONLY);
    k->to_float32(x, widened, t->n);
    k->to_float32(x + t->n, widened + t->n, NUMBERS - t->n);
    hash_floats(t, widened, NUMBERS);
    for (ptrdiff_t i = 0; i < NUMBERS; i++) beside[i] = beside_middle(widened, i, (int)t->values - 2);
    rounding_trial(t, widened);
    rounding_trial(t, beside);
    protect(READ_WRITE);
}

/* ---- the list of ops ---- */

typedef struct {
    const char *name;
    void (*run)(trial *t);
    int in_place; /* whether the output may be the input */
    int streams;  /* the number of values of `stream` */
    int types;    /* of tensors: a bit for each */
} op;

enum {
    FLOAT32 = 1 << CREG_FLOAT32,
    TYPES_OF_16_BITS = 1 << CREG_FLOAT16 | 1 << CREG_BFLOAT16,
    ALL_TYPES = FLOAT32 | TYPES_OF_16_BITS
};

static const op ops[] = {
    {"layer_norm", layer_norm_trial, 1, 2, ALL_TYPES},
    {"rms_norm", rms_norm_trial, 1, 2, ALL_TYPES},
    {"dropout_add_layer_norm", dropout_add_layer_norm_trial, 1, 2, ALL_TYPES},
    {"dropout_add_rms_norm", dropout_add_rms_norm_trial, 1, 2, ALL_TYPES},
    {"column_sums", column_sums_trial, 0, 1, ALL_TYPES},
    {"wide_layer_norm", wide_layer_norm_trial, 1, 2, ALL_TYPES},
    {"wide_rms_norm", wide_rms_norm_trial, 1, 2, ALL_TYPES},
    {"across_layer_norm", across_layer_norm_trial, 1, 2, ALL_TYPES},
    {"across_rms_norm", across_rms_norm_trial, 1, 2, ALL_TYPES},
    {"batch_norm_columns", columns_trial, 1, CREG_STREAM + 1, ALL_TYPES},
    {"batch_norm_planes", planes_trial, 1, CREG_STREAM + 1, ALL_TYPES},
    {"batch_norm_inference_columns", columns_inference_trial, 1, CREG_STREAM + 1, ALL_TYPES},
    {"batch_norm_inference_planes", planes_inference_trial, 1, CREG_STREAM + 1, ALL_TYPES},
    {"group_norm_planes", group_planes_trial, 1, CREG_STREAM + 1, ALL_TYPES},
    {"group_norm_columns", group_columns_trial, 1, CREG_STREAM + 1, ALL_TYPES},
    {"ghost_batch_norm_columns", ghost_columns_trial, 1, CREG_STREAM + 1, ALL_TYPES},
    {"ghost_batch_norm_planes", ghost_planes_trial, 1, CREG_STREAM + 1, ALL_TYPES},
    {"dropout", dropout_trial, 1, CREG_STREAM + 1, ALL_TYPES},
    {"dropout_keep", dropout_keep_trial, 0, 1, FLOAT32},
    {"spatial_dropout", spatial_dropout_trial, 1, 2, ALL_TYPES},
    {"alpha_dropout", alpha_dropout_trial, 1, 2, ALL_TYPES},
    {"feature_alpha_dropout", feature_alpha_dropout_trial, 1, 2, ALL_TYPES},
    {"dropout_channels_last", dropout_channels_last_trial, 1, 2, ALL_TYPES},
    {"drop_block", drop_block_trial, 1, 2, ALL_TYPES},
    {"sum_squares", l2_penalty_trial, 0, 1, FLOAT32},
    {"scale", l2_gradient_trial, 1, 2, FLOAT32},
    {"sgd_step", sgd_step_trial, 0, 1, FLOAT32},
    {"adamw_step", adamw_step_trial, 0, 1, FLOAT32},
    {"clipped_squares", clipped_squares_trial, 0, 1, FLOAT32},
    {"modified_sgd_step", modified_sgd_step_trial, 0, 1, FLOAT32},
    {"modified_adamw_step", modified_adamw_step_trial, 0, 1, FLOAT32},
    {"max_norm", max_norm_trial, 0, 1, FLOAT32},
    {"gaussian_noise", gaussian_noise_trial, 1, 2, FLOAT32},
    {"sample_uniform", sample_uniform_trial, 0, 1, FLOAT32},
    {"flip_image", flip_trial, 1, 2, FLOAT32},
    {"box_image", box_trial, 1, 2, FLOAT32},
    {"paste_image", paste_trial, 1, 2, FLOAT32},
    {"mix", mix_trial, 1, 2, FLOAT32},
    {"jitter_image", jitter_trial, 1, 2, FLOAT32},
    {"are_colours", are_colours_trial, 0, 1, FLOAT32},
    {"crop_image", crop_trial, 0, 1, FLOAT32},
    {"rotate_image", rotate_trial, 0, 1, FLOAT32},
    {"conversions", conversions_trial, 0, 1, TYPES_OF_16_BITS},
};
enum { OPS = sizeof ops / sizeof *ops };

static int takes(const op *o, int type) { return o->types >> type & 1; }

/* The same trial on float32 tensors of the same numbers, whose outputs are rounded: it must give the same hash. */
static trial as_float32(trial t)
{
    t.kernels = creg_kernels_ranked(0);
    t.stored = CREG_FLOAT32;
    return t;
}

/* Runs a trial, on the same inputs each time, and sets its hash. Returns whether all sentinels are unchanged. */
static int run_trial(const op *o, trial *t)
{
    random_state = t->seed;
    t->hash = 0xCBF29CE484222325u;
    o->run(t);
    return give_back();
}

#endif
