/* Every kernel of a table called as cregkit/kernels/ calls it, on inputs that are the same on every machine, and a hash
 * of all that came out. */
#ifndef TRIALS_H
#define TRIALS_H

#include "cregkit.h"
#include "memory.h"

#include <pthread.h>
#include <stdatomic.h>

typedef enum { ORDINARY, OFFSET, HUGE_VALUES, TINY_VALUES, SPECIAL, KINDS } kind;

/* One trial: which kernels on what. rows and n mean what the op makes of them. */
typedef struct {
    const creg_kernels *kernels;
    ptrdiff_t rows, n;
    kind values;
    int plain;    /* without the optional arrays */
    int stream;   /* how outputs are written: 0, not around the cache; some ops know two such ways */
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

static float value_of(kind values)
{
    const float v = random_float();
    switch (values) {
    case OFFSET:
        return 1e6f + v;
    case HUGE_VALUES:
        return v * 0x1p+110f;
    case TINY_VALUES:
        return v * 0x1p-120f;
    case SPECIAL:
        return random_bits() % 64 ? v : special_value();
    default:
        return v;
    }
}

static float *input(ptrdiff_t n, kind values)
{
    float *a = take(sizeof(float) * (size_t)n, 1);
    for (ptrdiff_t i = 0; i < n; i++) a[i] = value_of(values);
    return a;
}

static float *positive_input(ptrdiff_t n) /* in [1/2, 3/2) */
{
    float *a = take(sizeof(float) * (size_t)n, 1);
    for (ptrdiff_t i = 0; i < n; i++) a[i] = 1.0f + random_float() * 0.25f;
    return a;
}

/* What a kernel changes in place. */
static float *changed(ptrdiff_t n, kind values)
{
    float *a = take(sizeof(float) * (size_t)n, 0);
    for (ptrdiff_t i = 0; i < n; i++) a[i] = value_of(values);
    return a;
}

static float *floats(ptrdiff_t n) { return take(sizeof(float) * (size_t)n, 0); }
static double *doubles(ptrdiff_t n) { return take(sizeof(double) * (size_t)n, 0); }

static void hash_word(trial *t, uint64_t word) /* FNV-1a over whole words */
{
    t->hash = (t->hash ^ word) * 0x100000001B3u;
    t->hash ^= t->hash >> 29;
}

/* NaN is NaN: its sign and payload are not part of the promise. */
static void hash_floats(trial *t, const float *a, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &a[i], sizeof bits);
        hash_word(t, a[i] == a[i] ? bits : 0x7FC00000u);
    }
}

static void hash_doubles(trial *t, const double *a, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        uint64_t bits;
        memcpy(&bits, &a[i], sizeof bits);
        hash_word(t, a[i] == a[i] ? bits : 0x7FF8000000000000u);
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

/* ---- rows: layer norm and RMS norm, in chunks of ROWS rows ---- */

enum { ROWS = 2 };

typedef struct {
    const trial *t;
    const float *x, *dy, *gamma, *beta;
    float *y, *dx, *partial, *dgamma, *dbeta;
    double *mean, *rstd;
    ptrdiff_t chunks, cols;
} rows;

static void layer_norm_rows(void *args, ptrdiff_t i)
{
    const rows *r = args;
    const ptrdiff_t first = i * ROWS, n = at_most(ROWS, r->t->rows - first), at = first * r->cols;
    r->t->kernels->layer_norm_forward(r->x + at, r->gamma, r->beta, r->y + at, r->mean ? r->mean + first : NULL,
                                      r->rstd ? r->rstd + first : NULL, n, r->cols, r->t->eps, r->t->stream);
}

static void layer_norm_grad_rows(void *args, ptrdiff_t i)
{
    const rows *r = args;
    const ptrdiff_t first = i * ROWS, n = at_most(ROWS, r->t->rows - first), at = first * r->cols;
    r->t->kernels->layer_norm_backward(r->dy + at, r->x + at, r->mean + first, r->rstd + first, r->gamma, r->dx + at,
                                       r->partial ? r->partial + i * r->cols : NULL,
                                       r->partial ? r->partial + (r->chunks + i) * r->cols : NULL, n, r->cols,
                                       r->t->stream);
}

static void rms_norm_rows(void *args, ptrdiff_t i)
{
    const rows *r = args;
    const ptrdiff_t first = i * ROWS, n = at_most(ROWS, r->t->rows - first), at = first * r->cols;
    r->t->kernels->rms_norm_forward(r->x + at, r->gamma, r->y + at, r->rstd ? r->rstd + first : NULL, n, r->cols,
                                    r->t->eps, r->t->stream);
}

static void rms_norm_grad_rows(void *args, ptrdiff_t i)
{
    const rows *r = args;
    const ptrdiff_t first = i * ROWS, n = at_most(ROWS, r->t->rows - first), at = first * r->cols;
    r->t->kernels->rms_norm_backward(r->dy + at, r->x + at, r->rstd + first, r->gamma, r->dx + at,
                                     r->partial ? r->partial + i * r->cols : NULL, n, r->cols, r->t->stream);
}

static void merge_rows(void *args, ptrdiff_t i)
{
    const rows *r = args;
    const ptrdiff_t half = r->cols / 2, j0 = i ? half : 0, j1 = i ? r->cols : half;
    r->t->kernels->merge_columns(r->partial, r->chunks, r->cols, j0, j1, r->dgamma);
    if (r->dbeta) r->t->kernels->merge_columns(r->partial + r->chunks * r->cols, r->chunks, r->cols, j0, j1, r->dbeta);
}

static void rows_trial(trial *t, int layer_norm)
{
    const ptrdiff_t n = t->rows * t->n;
    rows r = {.t = t, .cols = t->n, .chunks = (t->rows + ROWS - 1) / ROWS};
    float *x = t->in_place ? changed(n, t->values) : input(n, t->values);
    r.x = x;
    r.gamma = t->plain ? NULL : positive_input(r.cols);
    r.beta = t->plain || !layer_norm ? NULL : input(r.cols, ORDINARY);
    r.dy = input(n, ORDINARY);
    r.y = t->in_place ? x : floats(n);
    r.mean = layer_norm ? doubles(t->rows) : NULL;
    r.rstd = doubles(t->rows);
    float *kept = malloc(sizeof(float) * (size_t)(n ? n : 1)); /* x for backward, should forward write over it */
    memcpy(kept, x, sizeof(float) * (size_t)n);
    protect(PROT_READ);
    parallel_for(layer_norm ? layer_norm_rows : rms_norm_rows, &r, r.chunks);
    hash_floats(t, r.y, n);
    if (r.mean) hash_doubles(t, r.mean, t->rows);
    hash_doubles(t, r.rstd, t->rows);

    if (t->in_place) memcpy(x, kept, sizeof(float) * (size_t)n);
    free(kept);
    r.dx = t->in_place ? x : floats(n);
    if (!t->plain) {
        r.partial = floats((layer_norm ? 2 : 1) * r.chunks * r.cols);
        r.dgamma = floats(r.cols);
        r.dbeta = layer_norm ? floats(r.cols) : NULL;
    }
    parallel_for(layer_norm ? layer_norm_grad_rows : rms_norm_grad_rows, &r, r.chunks);
    if (r.partial) parallel_for(merge_rows, &r, 2);
    protect(PROT_READ | PROT_WRITE);
    hash_floats(t, r.dx, n);
    if (r.dgamma) hash_floats(t, r.dgamma, r.cols);
    if (r.dbeta) hash_floats(t, r.dbeta, r.cols);
}

static void layer_norm_trial(trial *t) { rows_trial(t, 1); }
static void rms_norm_trial(trial *t) { rows_trial(t, 0); }

static creg_dropout dropout_of(const trial *t)
{
    const uint64_t fixed = (uint64_t)(t->p * 0x1p48);
    return (creg_dropout){.key = {(uint32_t)t->seed, (uint32_t)(t->seed >> 32)},
                          .threshold = (uint16_t)(fixed >> 32),
                          .tie = (uint32_t)fixed,
                          .scale = (float)(1.0 / (1.0 - t->p))};
}
/* ---- dropout, addition and a norm: as the rows above, with enough of them in a chunk for several tiles ---- */

enum { TILED_ROWS = 8 };

typedef struct {
    const trial *t;
    const creg_dropout *dropout;
    const float *x, *residual, *gamma, *beta, *dy, *dh;
    float *y, *h, *dx, *dresidual, *partial, *dgamma, *dbeta;
    double *mean, *rstd;
    ptrdiff_t rows, cols, chunks;
    uint64_t first;
} residual_rows;

static void dropout_add_rows(void *args, ptrdiff_t i)
{
    const residual_rows *r = args;
    const creg_kernels *k = r->t->kernels;
    const ptrdiff_t row = i * TILED_ROWS, n = at_most(TILED_ROWS, r->rows - row), at = row * r->cols;
    (r->mean ? k->dropout_add_layer_norm_forward
             : k->dropout_add_rms_norm_forward)(r->x ? r->x + at : NULL, r->residual + at, r->gamma, r->beta, r->y + at,
                                                r->h + at, r->mean ? r->mean + row : NULL, r->rstd + row, n, r->cols,
                                                r->t->eps, r->first + (uint64_t)at, r->dropout, r->t->stream);
}

static void dropout_add_grad_rows(void *args, ptrdiff_t i)
{
    const residual_rows *r = args;
    const creg_kernels *k = r->t->kernels;
    const ptrdiff_t row = i * TILED_ROWS, n = at_most(TILED_ROWS, r->rows - row), at = row * r->cols;
    float *dgamma = r->partial ? r->partial + i * r->cols : NULL;
    (r->mean ? k->dropout_add_layer_norm_backward : k->dropout_add_rms_norm_backward)(
        r->dy + at, r->h + at, r->mean ? r->mean + row : NULL, r->rstd + row, r->gamma, r->dh ? r->dh + at : NULL,
        r->dx ? r->dx + at : NULL, r->dresidual + at, dgamma, r->dbeta ? dgamma + r->chunks * r->cols : NULL, n,
        r->cols, r->first + (uint64_t)at, r->dropout, r->t->stream);
}

static void merge_residual_rows(void *args, ptrdiff_t i)
{
    const residual_rows *r = args;
    const rows merged = {
        .t = r->t, .partial = r->partial, .dgamma = r->dgamma, .dbeta = r->dbeta, .chunks = r->chunks, .cols = r->cols};
    merge_rows((void *)&merged, i);
}

/* Plain trials drop nothing, those of tiny values everything, as p = 0 and p = 1 do. */
static void residual_trial(trial *t, int layer_norm)
{
    residual_rows r = {.t = t, .rows = t->n > 300 ? 9 : 11, .cols = t->n, .first = t->seed >> 20};
    const ptrdiff_t n = r.rows * r.cols;
    const creg_dropout dropout = dropout_of(t);
    const int drops_all = t->values == TINY_VALUES;
    r.chunks = (r.rows + TILED_ROWS - 1) / TILED_ROWS;
    r.dropout = t->plain ? NULL : &dropout;
    float *x = t->in_place && layer_norm ? changed(n, t->values) : input(n, t->values);
    float *residual = t->in_place && !layer_norm ? changed(n, t->values) : input(n, t->values);
    r.x = drops_all ? NULL : x;
    r.residual = residual;
    r.gamma = t->plain ? NULL : positive_input(r.cols);
    r.beta = t->plain || !layer_norm ? NULL : input(r.cols, ORDINARY);
    r.dy = input(n, ORDINARY);
    r.dh = t->plain ? NULL : input(n, ORDINARY);
    r.y = !t->in_place ? floats(n) : layer_norm ? x : residual;
    r.h = floats(n);
    r.mean = layer_norm ? doubles(r.rows) : NULL;
    r.rstd = doubles(r.rows);
    r.dx = t->plain || drops_all ? NULL : floats(n);
    r.dresidual = floats(n);
    if (!t->plain) {
        r.partial = floats((layer_norm ? 2 : 1) * r.chunks * r.cols);
        r.dgamma = floats(r.cols);
        r.dbeta = layer_norm ? floats(r.cols) : NULL;
    }
    protect(PROT_READ);
    parallel_for(dropout_add_rows, &r, r.chunks);
    parallel_for(dropout_add_grad_rows, &r, r.chunks);
    if (r.partial) parallel_for(merge_residual_rows, &r, 2);
    protect(PROT_READ | PROT_WRITE);
    hash_floats(t, r.y, n);
    hash_floats(t, r.h, n);
    if (r.mean) hash_doubles(t, r.mean, r.rows);
    hash_doubles(t, r.rstd, r.rows);
    if (r.dx) hash_floats(t, r.dx, n);
    hash_floats(t, r.dresidual, n);
    if (r.dgamma) hash_floats(t, r.dgamma, r.cols);
    if (r.dbeta) hash_floats(t, r.dbeta, r.cols);
}

static void dropout_add_layer_norm_trial(trial *t) { residual_trial(t, 1); }
static void dropout_add_rms_norm_trial(trial *t) { residual_trial(t, 0); }

/* ---- wide rows: all rows by panels, then by tiles ---- */

typedef struct {
    const creg_kernels *kernels;
    creg_wide w;
    ptrdiff_t panels;
} wide;

static void wide_sums(void *args, ptrdiff_t i)
{
    const wide *a = args;
    a->kernels->wide_sums(&a->w, i % a->panels, i / a->panels);
}

static void wide_statistics(void *args, ptrdiff_t i)
{
    wide *a = args;
    a->kernels->wide_statistics(&a->w, i);
}

static void wide_write(void *args, ptrdiff_t i)
{
    const wide *a = args;
    a->kernels->wide_write(&a->w, i % a->panels, i / a->panels);
}

static void wide_grad_sums(void *args, ptrdiff_t i)
{
    const wide *a = args;
    a->kernels->wide_grad_sums(&a->w, i % a->panels, i / a->panels);
}

static void wide_grad_means(void *args, ptrdiff_t i)
{
    wide *a = args;
    a->kernels->wide_grad_means(&a->w, i);
}

static void wide_grad_tile(void *args, ptrdiff_t i)
{
    const wide *a = args;
    a->kernels->wide_grad_tile(&a->w, i);
}

/* Plain trials are of a norm by itself, those of tiny values drop everything. */
static void wide_trial(trial *t, int rms)
{
    const ptrdiff_t rows = at_most(t->rows, CREG_WIDE_ROWS), n = rows * t->n;
    const creg_dropout dropout = dropout_of(t);
    const int drops_all = t->values == TINY_VALUES, drops = !t->plain && !drops_all;
    wide a = {.kernels = t->kernels, .panels = (t->n + CREG_PANEL - 1) / CREG_PANEL};
    creg_wide *w = &a.w;
    *w =
        (creg_wide){.rms = rms, .rows = rows, .cols = t->n, .eps = t->eps, .first = t->seed >> 20, .stream = t->stream};
    float *x = t->in_place ? changed(n, t->values) : input(n, t->values);
    w->x = x;
    w->dy = input(n, ORDINARY);
    w->y = t->in_place ? x : floats(n);
    w->sums = doubles(2 * rows * a.panels);
    w->dx = floats(n);
    if (!t->plain) {
        w->x = drops_all ? NULL : x;
        w->residual = input(n, t->values);
        w->h = floats(n);
        w->more = input(n, ORDINARY);
        w->gamma = positive_input(t->n);
        w->beta = rms ? NULL : input(t->n, ORDINARY);
        w->dgamma = floats(t->n);
        w->dbeta = rms ? NULL : floats(t->n);
    }
    if (drops) {
        w->dropout = &dropout;
        w->dropped = floats(n);
    }
    float *kept = malloc(sizeof(float) * (size_t)(n ? n : 1)); /* x for backward, should forward write over it */
    memcpy(kept, x, sizeof(float) * (size_t)n);
    protect(PROT_READ);
    parallel_for(wide_sums, &a, rows * a.panels);
    parallel_for(wide_statistics, &a, rows);
    parallel_for(wide_write, &a, rows * a.panels);
    hash_floats(t, w->y, n);
    if (w->h) hash_floats(t, w->h, n);
    if (t->in_place) memcpy(x, kept, sizeof(float) * (size_t)n);
    free(kept);
    if (w->h) w->x = w->h;
    parallel_for(wide_grad_sums, &a, rows * a.panels);
    parallel_for(wide_grad_means, &a, rows);
    parallel_for(wide_grad_tile, &a, (t->n + CREG_TILE - 1) / CREG_TILE);
    protect(PROT_READ | PROT_WRITE);
    hash_floats(t, w->dx, n);
    if (w->dropped) hash_floats(t, w->dropped, n);
    if (w->dgamma) hash_floats(t, w->dgamma, t->n);
    if (w->dbeta) hash_floats(t, w->dbeta, t->n);
    for (ptrdiff_t i = 0; i < rows; i++) {
        const double statistics[] = {w->row[i].mean, w->row[i].rstd, w->row[i].mean_g, w->row[i].mean_g_x_hat};
        hash_doubles(t, statistics, 4);
    }
}

static void wide_layer_norm_trial(trial *t) { wide_trial(t, 0); }
static void wide_rms_norm_trial(trial *t) { wide_trial(t, 1); }

/* ---- batch norm: a chunk a task, channels in two halves ---- */

static creg_channels new_channels(ptrdiff_t c)
{
    creg_channels ch = {.hi = floats(c),
                        .lo = floats(c),
                        .scale = floats(c),
                        .bias = floats(c),
                        .k1 = floats(c),
                        .k2 = floats(c),
                        .mean64 = doubles(c),
                        .scale64 = doubles(c),
                        .k1_64 = doubles(c),
                        .k2_64 = doubles(c),
                        .exact = take((size_t)c, 0)};
    memset(ch.exact, 0, (size_t)c);
    return ch;
}

static void halve(creg_cut *cut, ptrdiff_t c)
{
    cut->chunk_step = 1;
    cut->channel_step = (c + 1) / 2;
    cut->tasks = c == 0 ? 0 : (c + cut->channel_step - 1) / cut->channel_step * cut->chunks;
}

static void plan(const trial *t, creg_batch *b, int sums)
{
    t->kernels->batch_norm_plan(b, sums);
    halve(&b->summed, b->shape.c);
    b->written = b->summed;
    halve(&b->channelwise, b->shape.c);
    b->channels = new_channels(b->shape.c);
}

static void batch_forward(trial *t, creg_batch_norm *a)
{
    creg_batch *b = &a->batch;
    const ptrdiff_t c = b->shape.c;
    const int training = !b->given_mean;
    b->mean = doubles(c);
    b->rstd = doubles(c);
    plan(t, b, training);
    protect(PROT_READ);
    if (training) {
        a->var = doubles(c);
        a->chunk_mean = doubles(b->summed.chunks * c);
        a->chunk_m2 = doubles(b->summed.chunks * c);
        parallel_for(t->kernels->batch_norm_moments, a, b->summed.tasks);
    }
    parallel_for(t->kernels->batch_norm_statistics, a, b->channelwise.tasks);
    if (training) hash_doubles(t, a->var, c);
    parallel_for(t->kernels->batch_norm_apply, a, b->written.tasks);
    hash_doubles(t, b->mean, c);
    hash_doubles(t, b->rstd, c);
}

static void batch_backward(trial *t, creg_batch_norm_grad *a)
{
    creg_batch *b = &a->batch;
    const ptrdiff_t c = b->shape.c;
    plan(t, b, 1);
    a->chunk_dy = floats(b->summed.chunks * c);
    a->chunk_dy_d = floats(b->summed.chunks * c);
    parallel_for(t->kernels->batch_norm_grad_centres, a, b->channelwise.tasks);
    parallel_for(t->kernels->batch_norm_grad_sums, a, b->summed.tasks);
    parallel_for(t->kernels->batch_norm_grad_merge, a, b->channelwise.tasks);
    parallel_for(t->kernels->batch_norm_grad_apply, a, b->written.tasks);
    protect(PROT_READ | PROT_WRITE);
    if (a->dgamma) hash_floats(t, a->dgamma, c);
    if (a->dbeta) hash_floats(t, a->dbeta, c);
}

static void batch_trial(trial *t, creg_shape shape, int training)
{
    const ptrdiff_t n = shape.n * shape.c * shape.s;
    creg_batch_norm forward = {.batch = {.shape = shape, .where = t->stream, .eps = t->eps}};
    creg_batch *b = &forward.batch;
    float *x = t->in_place ? changed(n, t->values) : input(n, t->values);
    b->x = x;
    b->count = (double)shape.n * (double)shape.s;
    creg_batch_norm_grad backward = {.dy = input(n, ORDINARY)};
    b->gamma = t->plain ? NULL : positive_input(shape.c);
    forward.beta = t->plain ? NULL : input(shape.c, ORDINARY);
    b->given_mean = training ? NULL : input(shape.c, t->values);
    b->given_var = training ? NULL : positive_input(shape.c);
    forward.y = t->in_place ? x : floats(n);
    float *kept = malloc(sizeof(float) * (size_t)(n ? n : 1));
    memcpy(kept, x, sizeof(float) * (size_t)n);
    batch_forward(t, &forward);
    hash_floats(t, forward.y, n);
    if (t->in_place) memcpy(x, kept, sizeof(float) * (size_t)n);
    free(kept);
    backward.batch = *b;
    backward.dx = t->in_place ? x : floats(n);
    backward.dgamma = t->plain ? NULL : floats(shape.c);
    backward.dbeta = t->plain ? NULL : floats(shape.c);
    batch_backward(t, &backward);
    hash_floats(t, backward.dx, n);
}

static creg_shape columns_of(const trial *t) { return (creg_shape){t->n > 300 ? 3 : 7 * t->rows, t->n, 1}; }
static creg_shape planes_of(const trial *t) { return (creg_shape){t->rows, 3, t->n + 1}; }

static void columns_trial(trial *t) { batch_trial(t, columns_of(t), 1); }
static void planes_trial(trial *t) { batch_trial(t, planes_of(t), 1); }
static void columns_inference_trial(trial *t) { batch_trial(t, columns_of(t), 0); }
static void planes_inference_trial(trial *t) { batch_trial(t, planes_of(t), 0); }

/* ---- elements, in two blocks ---- */

static creg_dropout_items items_of(const trial *t, ptrdiff_t n, ptrdiff_t size)
{
    return (creg_dropout_items){.dropout = dropout_of(t),
                                .decides = CREG_DRAWS,
                                .stream = t->stream,
                                .first = t->seed >> 20,
                                .n = n,
                                .size = size,
                                .block = (n + 1) / 2};
}

static void dropped_trial(trial *t, block_task *task, ptrdiff_t n, ptrdiff_t size)
{
    float *x = t->in_place ? changed(n * size, t->values) : input(n * size, t->values);
    creg_dropout_items a = items_of(t, n, size);
    a.x = x;
    a.y = t->in_place ? x : floats(n * size);
    protect(PROT_READ);
    parallel_for(task, &a, 2);
    protect(PROT_READ | PROT_WRITE);
    hash_floats(t, a.y, n * size);
}

static void dropout_trial(trial *t) { dropped_trial(t, t->kernels->dropout_forward, t->n, 1); }
static void spatial_dropout_trial(trial *t)
{
    dropped_trial(t, t->kernels->spatial_dropout, t->n > 300 ? 5 : 133, t->n);
}

static void dropout_keep_trial(trial *t)
{
    creg_dropout_items a = items_of(t, t->n, 1);
    a.keep = take((size_t)t->n, 0);
    parallel_for(t->kernels->dropout_keep, &a, 2);
    for (ptrdiff_t i = 0; i < t->n; i++) hash_word(t, a.keep[i]);
}

static void l2_penalty_trial(trial *t)
{
    creg_l2 a = {.w = input(t->n, t->values), .n = t->n, .n_panels = (t->n + CREG_PANEL - 1) / CREG_PANEL};
    a.panels = doubles(a.n_panels);
    protect(PROT_READ);
    parallel_for(t->kernels->sum_squares, &a, a.n_panels);
    protect(PROT_READ | PROT_WRITE);
    hash_doubles(t, a.panels, a.n_panels);
}

static void l2_gradient_trial(trial *t)
{
    float *w = t->in_place ? changed(t->n, t->values) : input(t->n, t->values);
    creg_l2 a = {.w = w, .n = t->n, .block = (t->n + 1) / 2, .weight_decay = (double)0.37f, .stream = t->stream};
    a.dw = t->in_place ? w : floats(t->n);
    protect(PROT_READ);
    parallel_for(t->kernels->l2_gradient, &a, 2);
    protect(PROT_READ | PROT_WRITE);
    hash_floats(t, a.dw, t->n);
}

static void sgd_step_trial(trial *t)
{
    const float *dw = input(t->n, ORDINARY);
    creg_sgd a = {.w = changed(t->n, t->values), .dw = dw, .n = t->n, .block = (t->n + 1) / 2};
    a.lr = 0.05f, a.weight_decay = 0.01f, a.momentum = 0.9f;
    a.velocity = t->plain ? NULL : changed(t->n, ORDINARY);
    protect(PROT_READ);
    parallel_for(t->kernels->sgd_step, &a, 2);
    protect(PROT_READ | PROT_WRITE);
    hash_floats(t, a.w, t->n);
    if (a.velocity) hash_floats(t, a.velocity, t->n);
}

static void adamw_step_trial(trial *t)
{
    const float *dw = input(t->n, ORDINARY);
    creg_adamw a = {.w = changed(t->n, t->values), .dw = dw};
    a.m = changed(t->n, ORDINARY);
    a.v = floats(t->n);
    for (ptrdiff_t i = 0; i < t->n; i++) a.v[i] = 1.0f + random_float() * 0.25f;
    a.n = t->n, a.block = (t->n + 1) / 2;
    a.shrink = t->plain ? 1.0f : 0.999f, a.l2 = t->plain ? 0.01f : 0.0f;
    a.beta1 = 0.9f, a.one_minus_beta1 = 0.1f, a.beta2 = 0.999f, a.one_minus_beta2 = 0.001f;
    a.step_size = 0.001f, a.inv_sqrt_bias2 = 10.0f, a.eps = 1e-8f;
    protect(PROT_READ);
    parallel_for(t->kernels->adamw_step, &a, 2);
    protect(PROT_READ | PROT_WRITE);
    hash_floats(t, a.w, t->n);
    hash_floats(t, a.m, t->n);
    hash_floats(t, a.v, t->n);
}

/* ---- samples: noise in two pieces; images of one row and of several, in both layouts ---- */

static void gaussian_noise_trial(trial *t)
{
    float *x = t->in_place ? changed(t->n, t->values) : input(t->n, t->values);
    const int64_t index = (uint32_t)t->seed;
    const float sigma = 0.7f;
    const ptrdiff_t half = t->n / 2 / CREG_NOISE_GROUP * CREG_NOISE_GROUP;
    creg_noise a = {.key = {(uint32_t)t->seed, (uint32_t)(t->seed >> 32)}, .index = &index, .x = x, .sigma = &sigma};
    a.y = t->in_place ? x : floats(t->n);
    a.samples = 1, a.size = t->n, a.block = half + CREG_NOISE_GROUP;
    a.pieces = (a.size + a.block - 1) / a.block;
    protect(PROT_READ);
    parallel_for(t->kernels->gaussian_noise, &a, a.pieces);
    protect(PROT_READ | PROT_WRITE);
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

/* One image with channels first, one with channels last; `y` like `x`, but for a crop, which has a row and three
 * columns more. */
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
        float *x = t->in_place ? changed(a.size, t->values) : input(a.size, t->values);
        const float *other = input(a.size, ORDINARY);
        a.x = x;
        a.y = t->in_place ? x : floats(size);
        a.other = paste ? other : NULL;
        a.whole = crop ? corner : task == t->kernels->flip_images ? &flips : box;
        a.factors = task == t->kernels->mix_images ? &weight : factors;
        a.degrees = &degrees;
        a.fill = task == t->kernels->rotate_images ? 0.25f : 0.5f;
        a.reflect = t->plain;
        protect(PROT_READ);
        task(&a, 0);
        protect(PROT_READ | PROT_WRITE);
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
    return !a.strange;
}

static void are_colours_trial(trial *t)
{
    const float *x = input(t->n, t->values), *y = positive_input(t->n);
    float *z = changed(t->n, ORDINARY);
    for (ptrdiff_t i = 0; i < t->n; i++) z[i] = y[i] - 0.5f; /* in [0, 1) */
    protect(PROT_READ);
    hash_word(t, (uint64_t)(holds_colours(t, x) + 2 * holds_colours(t, z)));
    protect(PROT_READ | PROT_WRITE);
}

/* ---- column sums that float32 may not hold, and gain and bias in float64 ---- */

static void column_sums_trial(trial *t)
{
    const ptrdiff_t n = t->rows * t->n, chunks = (t->rows + ROWS - 1) / ROWS;
    const creg_kernels *k = t->kernels;
    creg_columns c = {.rows = t->rows, .cols = t->n, .step = ROWS};
    c.dy = input(n, t->values);
    c.x = input(n, ORDINARY);
    c.partial_dgamma = input(chunks * c.cols, ORDINARY);
    c.partial_dbeta = t->plain ? NULL : input(chunks * c.cols, ORDINARY);
    double *mean = take(sizeof(double) * (size_t)t->rows, 1), *rstd = take(sizeof(double) * (size_t)t->rows, 1);
    for (ptrdiff_t i = 0; i < t->rows; i++)
        mean[i] = (double)random_float(), rstd[i] = 1.0 + 0.25 * (double)random_float();
    unsigned char *exact = take((size_t)chunks, 1);
    for (ptrdiff_t i = 0; i < chunks; i++) exact[i] = random_bits() % 2;
    c.mean = t->plain ? NULL : mean;
    c.rstd = rstd;
    c.exact = exact;
    c.dgamma = floats(c.cols);
    c.dbeta = t->plain ? NULL : floats(c.cols);
    const float *gamma = t->plain ? NULL : input(c.cols, t->values), *beta = input(c.cols, t->values);
    float *y = changed(n, ORDINARY);
    protect(PROT_READ);
    k->merge_columns_exact(&c, 0, c.cols / 2);
    k->merge_columns_exact(&c, c.cols / 2, c.cols);
    k->affine_rows(y, gamma, beta, t->rows, c.cols);
    hash_word(t, (uint64_t)(k->sums_are_safe(c.dy, n) + 2 * k->sums_were_safe(c.dgamma, c.cols) +
                            4 * k->are_at_most(beta, 0x1p+100f, c.cols)));
    protect(PROT_READ | PROT_WRITE);
    hash_floats(t, y, n);
    hash_floats(t, c.dgamma, c.cols);
    if (c.dbeta) hash_floats(t, c.dbeta, c.cols);
}

/* ---- all of them ---- */

typedef struct {
    const char *name;
    void (*run)(trial *t);
    int in_place; /* whether the output may be the input */
    int streams;  /* how many values of stream there are */
} op;

static const op ops[] = {
    {"layer_norm", layer_norm_trial, 1, 2},
    {"rms_norm", rms_norm_trial, 1, 2},
    {"dropout_add_layer_norm", dropout_add_layer_norm_trial, 1, 2},
    {"dropout_add_rms_norm", dropout_add_rms_norm_trial, 1, 2},
    {"column_sums", column_sums_trial, 0, 1},
    {"wide_layer_norm", wide_layer_norm_trial, 1, 2},
    {"wide_rms_norm", wide_rms_norm_trial, 1, 2},
    {"batch_norm_columns", columns_trial, 1, CREG_STREAM + 1},
    {"batch_norm_planes", planes_trial, 1, CREG_STREAM + 1},
    {"batch_norm_inference_columns", columns_inference_trial, 1, CREG_STREAM + 1},
    {"batch_norm_inference_planes", planes_inference_trial, 1, CREG_STREAM + 1},
    {"dropout", dropout_trial, 1, CREG_STREAM + 1},
    {"dropout_keep", dropout_keep_trial, 0, 1},
    {"spatial_dropout", spatial_dropout_trial, 1, 2},
    {"sum_squares", l2_penalty_trial, 0, 1},
    {"scale", l2_gradient_trial, 1, 2},
    {"sgd_step", sgd_step_trial, 0, 1},
    {"adamw_step", adamw_step_trial, 0, 1},
    {"gaussian_noise", gaussian_noise_trial, 1, 2},
    {"sample_uniform", sample_uniform_trial, 0, 1},
    {"flip_image", flip_trial, 1, 2},
    {"box_image", box_trial, 1, 2},
    {"paste_image", paste_trial, 1, 2},
    {"mix", mix_trial, 1, 2},
    {"jitter_image", jitter_trial, 1, 2},
    {"are_colours", are_colours_trial, 0, 1},
    {"crop_image", crop_trial, 0, 1},
    {"rotate_image", rotate_trial, 0, 1},
};
enum { OPS = sizeof ops / sizeof *ops };

/* Runs the trial on the same inputs each time. Returns whether every sentinel is as it was; the hash is in the trial.
 */
static int run_trial(const op *o, trial *t)
{
    random_state = t->seed;
    t->hash = 0xCBF29CE484222325u;
    o->run(t);
    return give_back();
}

#endif
