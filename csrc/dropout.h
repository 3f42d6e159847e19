/* Dropout (Srivastava et al., 2014, "Dropout: A Simple Way to Prevent Neural Networks from Overfitting"), inverted
 * scaling, and the dropouts that share its draws. The readable twin: cregkit/oracle/dropout.py
 *
 * Forward    y = x * scale + shift where kept, fill where dropped. Dropout: scale = 1 / (1 - p), no shift, fill = 0
 * Alpha      (Klambauer et al., 2017, arXiv:1706.02515)  scale = 1 / sqrt((alpha^2 * p + 1) * (1 - p)),
 *            shift = -scale * alpha * p, fill = scale * alpha * (1 - p), alpha = -1.7580993408473766
 * Saved      nothing
 * Backward   dx = dy * scale where kept, else 0: the same bits are drawn again
 * Decisions  one per element, channel (Tompson et al., 2015, arXiv:1411.4280) or sample (Huang et al., 2016,
 *            arXiv:1603.09382)
 * Numerics   A 16-bit draw below the threshold drops. A draw equal to it, one in 65536, is a tie: a second draw of 32
 *            bits decides, so that the probability is p to 2^-48. A shift of -0 changes no sum, not even -0.
 * Layout     Element i takes draw i of the random stream (draws.h). The steps of a block keep its state in registers.
 */
#ifndef CREG_DROPOUT_H
#define CREG_DROPOUT_H

#include "convert.h"
#include "draws.h"
#include "safety.h"
#include "stores.h"

enum {
    /* The number of decisions that are drawn before they are used: few, so that memory is not idle meanwhile. */
    FEW_DRAWN = 768,
    /* The copy of results from a buffer to memory is this many steps late, when their stores are complete. */
    COPY_LAG = 4
};

/* y = dropout(x), plus the residual unless it is NULL. unrounded_x and unrounded_y: of tensors that round, float32
 * numbers in place of x and y; or NULL. buffer: room in L1 for a block, through which y is written by non-temporal
 * stores if it is not aligned at the start of a step; or NULL. */
typedef struct {
    const stored *x, *residual;
    stored *y;
    const float *unrounded_x;
    float *unrounded_y;
    stored *buffer;
} dropout_arrays;

CREG_INLINE dropout_arrays arrays_from(dropout_arrays d, ptrdiff_t i)
{
    return (dropout_arrays){input_at(d.x, i),     input_at(d.residual, i), output_at(d.y, i),
                            AT(d.unrounded_x, i), AT(d.unrounded_y, i),    d.buffer};
}

CREG_INLINE vf load_elements(const dropout_arrays *a, ptrdiff_t e)
{
    return STORES_ROUND && a->unrounded_x ? v_load(a->unrounded_x + e) : x_load(a->x + e);
}

CREG_INLINE void put_elements(const dropout_arrays *a, ptrdiff_t e, vf v, ptrdiff_t n, int stream)
{
    put_part(a->y + e, AT(a->unrounded_y, e), v, n, stream);
}

/* Whether the second draw of a tied element drops it. */
static int tie_drops(uint64_t element, const creg_dropout *d)
{
    uint32_t second[4];
    philox(element, PHILOX_TIES, d->key, second);
    return second[0] < d->tie;
}

/* Not zero if a draw of the step equals the threshold. */
CREG_INLINE v_words ties_of(const draw_state *s, const creg_dropout *d)
{
    const v_words tied = v_words_of((uint16_t)d->threshold * 0x10001u);
    v_words ties = {0};
    for (int k = 0; k < DRAW_VECS; k++) ties |= v_equal_halves(s->d[k], tied);
    return ties;
}

/* Dropout of a step's elements by its words; ties count as kept. */
CREG_INLINE void dropout_step(dropout_arrays a, const draw_state *s, const creg_dropout *d, int stream)
{
    const v_words threshold = v_words_of((uint32_t)d->threshold << 16);
    const vf scale = v_set1(d->scale);
    for (int half = 0; half < 2; half++)
        for (int k = 0; k < DRAW_VECS; k++) {
            const ptrdiff_t e = half * DRAW_LANES + k * CREG_W;
            vf v = v_drop(half ? s->d[k] : s->d[k] << 16, threshold, v_mul(load_elements(&a, e), scale));
            if (a.residual) v = v_add(x_load(a.residual + e), v);
            put_elements(&a, e, v, CREG_W, stream);
        }
}

/* Drops those tied elements of [e0, e1) of a step that their second draw drops; `a` starts at element e0. */
static CREG_NOINLINE void drop_ties(dropout_arrays a, const draw_state *s, uint64_t step, ptrdiff_t e0, ptrdiff_t e1,
                                    const creg_dropout *d)
{
    int16_t of[STEP];
    store_draws(s, of);
    for (ptrdiff_t e = e0, i = 0; e < e1; e++, i++) {
        if (of[e] != d->threshold || !tie_drops(step * STEP + (uint64_t)e, d)) continue;
        put_value(a.y + i, AT(a.unrounded_y, i), a.residual ? x_value(a.residual + i) + 0.0f : 0.0f);
    }
}

/* Drops the ties of the `steps` steps that follow `random`, whose words are drawn again. */
static CREG_NOINLINE void drop_ties_of_steps(dropout_arrays a, const draws *random, int steps, const creg_dropout *d)
{
    draw_state s = random->state;
    for (int i = 0; i < steps; i++) {
        next_step(&s);
        if (v_any(ties_of(&s, d))) drop_ties(arrays_from(a, i * STEP), &s, random->step + (uint64_t)i, 0, STEP, d);
    }
}

/* Dropout of the elements of `steps` steps of a block. */
CREG_INLINE void dropout_steps(dropout_arrays a, draws *random, int steps, ptrdiff_t ahead, const creg_dropout *d,
                               int stream)
{
    draw_state s = random->state;
    v_words ties = {0};
    const ptrdiff_t lead = a.buffer ? unaligned_lead(a.y, STEP) : 0;
    ptrdiff_t copied = lead;
    for (int i = 0; i < steps; i++) { /* main loop */
        const ptrdiff_t e = i * STEP;
        if (ahead) prefetch_elements(a.x + e + ahead, STEP, stream);
        if (ahead && a.residual) prefetch_elements(a.residual + e + ahead, STEP, stream);
        next_step(&s);
        dropout_arrays of_step = arrays_from(a, e);
        if (a.buffer) of_step.y = a.buffer + e;
        dropout_step(of_step, &s, d, stream && !a.buffer);
        if (a.buffer && i >= COPY_LAG) {
            stream_lines(a.buffer + copied, a.y + copied, STEP);
            copied += STEP;
        }
        ties |= ties_of(&s, d);
    }
    if (a.buffer) {
        memcpy(a.y, a.buffer, sizeof(stored) * (size_t)lead);
        stream_row(a.buffer + copied, a.y + copied, steps * STEP - copied);
    }
    if (d->tie && v_any(ties)) drop_ties_of_steps(a, random, steps, d);
    random->state = s;
    random->step += (uint64_t)steps;
}

/* Elements [e0, e1) of a step, copied into a full step on the stack; `a` starts at element e0. */
static void dropout_part_step(dropout_arrays a, draws *random, uint64_t step, ptrdiff_t e0, ptrdiff_t e1,
                              const creg_dropout *d)
{
    float whole[STEP] = {0};
    const ptrdiff_t n = e1 - e0;
    const dropout_arrays copy = {(const void *)whole, NULL, (void *)whole, whole, whole, NULL};
    if (STORES_ROUND && a.unrounded_x)
        memcpy(whole + e0, a.unrounded_x, sizeof(float) * (size_t)n);
    else
        widen_elements(a.x, whole + e0, n, 0);
    draw_step(random, step);
    dropout_step(copy, &random->state, d, 0);
    if (d->tie && v_any(ties_of(&random->state, d))) drop_ties(arrays_from(copy, e0), &random->state, step, e0, e1, d);
    for (ptrdiff_t i = 0; a.residual && i < n; i++) whole[e0 + i] = x_value(a.residual + i) + whole[e0 + i];
    if (STORES_ROUND && a.unrounded_y)
        memcpy(a.unrounded_y, whole + e0, sizeof(float) * (size_t)n);
    else
        round_elements(whole + e0, a.y, n, 0);
}

/* Draws [first, first + n) of the random stream. Prefetches x and the residual `ahead` elements ahead; 0: no prefetch.
 */
CREG_INLINE void dropout_elements(dropout_arrays a, uint64_t first, ptrdiff_t n, ptrdiff_t ahead, const creg_dropout *d,
                                  draws *random, int stream)
{
    uint64_t step = first / STEP;
    const ptrdiff_t e0 = (ptrdiff_t)(first % STEP);
    ptrdiff_t i = 0;
    if (e0 && n > 0) {
        i = min_size(STEP - e0, n);
        dropout_part_step(a, random, step++, e0, e0 + i, d);
    }
    const int aligned = stream && (a.buffer || unaligned_lead(a.y + i, 1) == 0);
    for (int steps; i + STEP <= n; i += steps * STEP, step += (uint64_t)steps) {
        steps = prepare_steps(random, step, (n - i) / STEP);
        dropout_steps(arrays_from(a, i), random, steps, ahead, d, aligned);
    }
    if (i < n) dropout_part_step(arrays_from(a, i), random, step, 0, n - i, d); /* tail */
}

/* A task's elements [at, end). */
typedef struct {
    ptrdiff_t at, end;
} element_range;

CREG_INLINE element_range elements_of(const creg_dropout_items *a, ptrdiff_t task)
{
    return (element_range){task ? min_size(a->n, task * a->block + a->lead) : 0,
                           min_size(a->n, (task + 1) * a->block + a->lead)};
}

/* Whether p = 0 or p = 1, which need no draws; then writes y. */
static int decided(const creg_dropout_items *a, element_range range)
{
    const size_t bytes = sizeof(stored) * (size_t)(range.end - range.at);
    stored *y = output_at(a->y, range.at);
    if (a->decides == CREG_DROPS_ALL) memset(y, 0, bytes);
    if (a->decides == CREG_KEEPS_ALL && a->x != a->y) memcpy(y, input_at(a->x, range.at), bytes);
    return a->decides != CREG_DRAWS;
}

/* Elements, without shift and fill; or any items where all are kept or all are dropped. */
static void creg_dropout_forward(void *items, ptrdiff_t task)
{
    const creg_dropout_items *a = items;
    const element_range range = elements_of(a, task);
    if (decided(a, range)) return;
    const uint64_t first = a->first + (uint64_t)range.at;
    const ptrdiff_t n = range.end - range.at, lead = (ptrdiff_t)(-first % STEP);
    draws random;
    start_draws(&random, a->dropout.key);
    const stored *x = input_at(a->x, range.at);
    stored *y = output_at(a->y, range.at), buffer[CREG_DRAWS_BLOCK];
    if (a->stream && unaligned_lead(y + lead, 1))
        dropout_elements((dropout_arrays){.x = x, .y = y, .buffer = buffer}, first, n, READ_AHEAD, &a->dropout, &random,
                         1);
    else
        dropout_elements((dropout_arrays){.x = x, .y = y}, first, n, READ_AHEAD, &a->dropout, &random, a->stream);
    if (a->stream) v_stream_end();
}

static CREG_NOINLINE void keep_ties(unsigned char *keep, const draw_state *s, uint64_t step, const creg_dropout *d)
{
    int16_t of[STEP];
    store_draws(s, of);
    for (ptrdiff_t e = 0; e < STEP; e++)
        if (of[e] == d->threshold) keep[e] = !tie_drops(step * STEP + (uint64_t)e, d);
}

/* The decisions of a step, one byte each. */
CREG_INLINE void keep_step(unsigned char *keep, const draw_state *s, uint64_t step, const creg_dropout *d)
{
    const v_words threshold = v_words_of((uint32_t)d->threshold << 16);
    for (int k = 0; k < DRAW_VECS; k++) {
        v_store_kept(keep + k * CREG_W, s->d[k] << 16, threshold);
        v_store_kept(keep + DRAW_LANES + k * CREG_W, s->d[k], threshold);
    }
    if (v_any(ties_of(s, d))) keep_ties(keep, s, step, d);
}

/* Decisions [e0, e1) of a step. */
static void keep_part_step(unsigned char *keep, draws *random, uint64_t step, ptrdiff_t e0, ptrdiff_t e1,
                           const creg_dropout *d)
{
    unsigned char whole[STEP];
    draw_step(random, step);
    keep_step(whole, &random->state, step, d);
    memcpy(keep, whole + e0, (size_t)(e1 - e0));
}

/* Decisions [first, first + n), one byte each. */
static void draw_keep(unsigned char *keep, uint64_t first, ptrdiff_t n, const creg_dropout *d, draws *random)
{
    uint64_t step = first / STEP;
    const ptrdiff_t e0 = (ptrdiff_t)(first % STEP);
    ptrdiff_t i = 0;
    if (e0 && n > 0) {
        i = min_size(STEP - e0, n);
        keep_part_step(keep, random, step++, e0, e0 + i, d);
    }
    for (int steps; i + STEP <= n; i += steps * STEP, step += (uint64_t)steps) {
        steps = prepare_steps(random, step, (n - i) / STEP);
        draw_state s = random->state;
        for (int k = 0; k < steps; k++) { /* main loop */
            next_step(&s);
            keep_step(keep + i + k * STEP, &s, step + (uint64_t)k, d);
        }
        random->state = s;
        random->step += (uint64_t)steps;
    }
    if (i < n) keep_part_step(keep + i, random, step, 0, n - i, d); /* tail */
}

static void creg_dropout_keep(void *items, ptrdiff_t task)
{
    const creg_dropout_items *a = items;
    const element_range range = elements_of(a, task);
    const ptrdiff_t n = range.end - range.at;
    draws random;
    start_draws(&random, a->dropout.key);
    if (a->decides == CREG_DRAWS)
        draw_keep(a->keep + range.at, a->first + (uint64_t)range.at, n, &a->dropout, &random);
    else
        memset(a->keep + range.at, a->decides == CREG_KEEPS_ALL, (size_t)n);
}

/* The decisions in the first n bytes, of a vector at most. */
CREG_INLINE vm v_kept(const unsigned char *keep, ptrdiff_t n)
{
    unsigned char part[CREG_W] = {0};
    if (n >= CREG_W) return vm_of_bytes(keep);
    memcpy(part, keep, (size_t)n);
    return vm_of_bytes(part);
}

typedef struct {
    vf scale, shift, fill;
} affine;

CREG_INLINE void affine_group(const stored *x, const unsigned char *keep, stored *y, ptrdiff_t n, affine a, int stream)
{
    for (int k = 0; k < CREG_VECS; k++) {
        const ptrdiff_t j = k * CREG_W, left = n - j;
        if (left <= 0) continue;
        vf v = v_add(v_mul(x_load_part(x + j, left), a.scale), a.shift);
        if (keep) v = v_select(v_kept(keep + j, left), v, a.fill);
        x_put_part(y + j, v, left, stream);
    }
}

CREG_INLINE void affine_loop(const stored *x, const unsigned char *keep, stored *y, ptrdiff_t n, affine a, int stream)
{
    ptrdiff_t j = stream || !keep ? unaligned_lead(y, n) : 0; /* with a mask it would cost more than it saves */
    if (j) affine_group(x, keep, y, j, a, 0);
    for (; j + CREG_LANES <= n; j += CREG_LANES) /* main loop */
        affine_group(x + j, AT(keep, j), y + j, CREG_LANES, a, stream);
    if (j < n) affine_group(x + j, AT(keep, j), y + j, n - j, a, 0); /* tail */
}

/* y = x * scale + shift where kept, else fill. keep = NULL: all are kept. */
static void affine_elements(const stored *x, const unsigned char *keep, stored *y, ptrdiff_t n, const creg_dropout *d,
                            int stream)
{
    const affine a = {v_set1(d->scale), v_set1(d->shift), v_set1(d->fill)};
    if (keep)
        affine_loop(x, keep, y, n, a, stream);
    else
        affine_loop(x, NULL, y, n, a, stream);
}

static void fill_elements(stored *y, ptrdiff_t n, float value)
{
    const vf v = v_set1(value);
    ptrdiff_t j = 0;
    if (value == 0.0f)
        memset(y, 0, sizeof(stored) * (size_t)n);
    else {
        for (; j + CREG_W <= n; j += CREG_W) x_store(y + j, v); /* main loop */
        if (j < n) x_store_part(y + j, v, n - j);               /* tail */
    }
}

/* Elements, by the decisions in `keep` if it is given. */
static void creg_dropout_by_mask(void *items, ptrdiff_t task)
{
    const creg_dropout_items *a = items;
    const element_range range = elements_of(a, task);
    draws random;
    start_draws(&random, a->dropout.key);
    /* Each end of a part of an unaligned y is written without non-temporal stores. */
    const ptrdiff_t part = a->stream && unaligned_lead(output_at(a->y, range.at), 1) ? CREG_PANEL : FEW_DRAWN;
    for (ptrdiff_t i = range.at, n; i < range.end; i += n) {
        unsigned char drawn[CREG_PANEL];
        n = a->keep ? range.end - i : min_size(part, range.end - i);
        if (!a->keep) draw_keep(drawn, a->first + (uint64_t)i, n, &a->dropout, &random);
        affine_elements(input_at(a->x, i), a->keep ? a->keep + i : drawn, output_at(a->y, i), n, &a->dropout,
                        a->stream);
    }
    if (a->stream) v_stream_end();
}

/* Items of `rows` elements (cols = 1). Neighbours with the same decision are written together. */
static void creg_dropout_items_forward(void *items, ptrdiff_t task)
{
    const creg_dropout_items *a = items;
    const element_range range = elements_of(a, task);
    draws random;
    start_draws(&random, a->dropout.key);
    for (ptrdiff_t at = range.at, end; at < range.end;) {
        const ptrdiff_t item = at / a->rows, n = min_size(FEW_DRAWN, (range.end - 1) / a->rows + 1 - item);
        unsigned char keep[FEW_DRAWN];
        draw_keep(keep, a->first + (uint64_t)item, n, &a->dropout, &random);
        for (ptrdiff_t k = 0, next; k < n; k = next, at = end) {
            for (next = k + 1; next < n && keep[next] == keep[k];) next++;
            end = min_size((item + next) * a->rows, range.end);
            if (keep[k])
                affine_elements(input_at(a->x, at), NULL, output_at(a->y, at), end - at, &a->dropout, a->stream);
            else
                fill_elements(output_at(a->y, at), end - at, a->dropout.fill);
        }
    }
    if (a->stream) v_stream_end();
}

/* Repeats n bytes as often as a panel holds them. Returns the length of all. */
static ptrdiff_t repeat_keep(unsigned char *keep, ptrdiff_t n)
{
    ptrdiff_t all = n;
    for (ptrdiff_t more; (more = min_size(all, (CREG_PANEL - all) / n * n)) > 0; all += more)
        memcpy(keep + all, keep, (size_t)more);
    return all;
}

/* Channels of `rows` rows of `cols` channels each, in panels of channels. Tasks have whole rows; as many as a panel
 * holds are written together. */
static void creg_dropout_channels_last(void *items, ptrdiff_t task)
{
    const creg_dropout_items *a = items;
    const element_range range = elements_of(a, task);
    draws random;
    start_draws(&random, a->dropout.key);
    const ptrdiff_t size = a->rows * a->cols;
    for (ptrdiff_t at = range.at, end; at < range.end; at = end) {
        const ptrdiff_t sample = at / size;
        end = min_size((sample + 1) * size, range.end);
        for (ptrdiff_t c = 0, n; c < a->cols; c += n) {
            unsigned char keep[CREG_PANEL];
            n = min_size(CREG_PANEL, a->cols - c);
            draw_keep(keep, a->first + (uint64_t)(sample * a->cols + c), n, &a->dropout, &random);
            const ptrdiff_t together = n < a->cols ? n : repeat_keep(keep, n);
            for (ptrdiff_t i = at + c; i<end; i += together> a->cols ? together : a->cols)
                affine_elements(input_at(a->x, i), keep, output_at(a->y, i), min_size(together, end - i), &a->dropout,
                                a->stream);
        }
    }
    if (a->stream) v_stream_end();
}

#endif
