/* Group norm (Wu and He, 2018, "Group Normalization", arXiv:1803.08494), and with groups of one channel instance norm
 * (Ulyanov, Vedaldi and Lempitsky, 2016, arXiv:1607.08022). The readable twin: cregkit/oracle/group_norm.py
 *
 * Forward    mean, var = moments of a group of channels in a sample (var biased), rstd = 1 / sqrt(var + eps)
 *            x_hat = (x - mean) * rstd, y = x_hat * gamma + beta
 * Saved      mean and rstd of each group of each sample, float64
 * Backward   g = dy * gamma
 *            dx = rstd * (g - mean(g) - x_hat * mean(g * x_hat)), means over the group
 *            dgamma = sum of dy * x_hat, dbeta = sum of dy, over the samples and the positions of a channel
 * Layout     A sample is a batch norm of its own, with the functions of batch_norm.h: its statistics are those of
 *            groups, seen as long channels; gamma and beta are those of channels. Channels last, where a group is a few
 *            neighbouring columns, its moments are combined from those of its columns. With groups of one channel, a
 *            sample has the bits of batch norm: ghost batch norm's samples are virtual batches.
 */
#ifndef CREG_GROUP_NORM_H
#define CREG_GROUP_NORM_H

#include "batch_norm.h"

/* One sample of a call, or some groups of it. */
typedef struct {
    creg_batch_norm channels, groups;
    double *sums_dy, *sums_dy_x_hat;
    ptrdiff_t together; /* the channels of a group */
    int by_channels;
} group_sample;

/* `channels` channels of sample i of a batch norm, from channel c on. Their number is the stride of the chunks' sums,
 * so tasks on different channels write different sums. */
CREG_INLINE creg_batch_norm batch_of_sample(const creg_batch_norm *b, ptrdiff_t i, ptrdiff_t c, ptrdiff_t channels)
{
    const creg_shape shape = b->shape;
    const ptrdiff_t first = i * shape.n * shape.c * shape.s + c * shape.s, at = i * shape.c + c;
    const ptrdiff_t partial = at * b->summed.chunks;
    creg_batch_norm one = *b;
    creg_channels *ch = &one.channels;
    one.shape.c = channels;
    one.x = input_at(b->x, first), one.dy = input_at(b->dy, first), one.out = output_at(b->out, first);
    one.gamma = AT(b->gamma, c), one.beta = AT(b->beta, c);
    one.chunk_mean = AT(b->chunk_mean, partial), one.chunk_m2 = AT(b->chunk_m2, partial);
    one.chunk_dy = AT(b->chunk_dy, partial), one.chunk_dy_d = AT(b->chunk_dy_d, partial);
    one.var = AT(b->var, at), one.rstd += at;
    ch->mean += at, ch->exact += at;
    if (!ch->hi) return one; /* a batch norm of groups */
    ch->hi += at, ch->lo += at, ch->scale += at, ch->bias += at, ch->k1 += at, ch->k2 += at;
    ch->scale64 += at, ch->k1_64 += at, ch->k2_64 += at;
    return one;
}

/* `groups` groups of sample i, from group g on. Channels last, where groups are not contiguous, these are all. */
CREG_INLINE group_sample sample_at(const creg_group_norm *a, ptrdiff_t i, ptrdiff_t g, ptrdiff_t groups)
{
    const ptrdiff_t together = a->channels.shape.c / a->groups.shape.c, at = i * a->channels.shape.c + g * together;
    return (group_sample){batch_of_sample(&a->channels, i, g * together, groups * together),
                          batch_of_sample(&a->groups, i, g, groups),
                          AT(a->sums_dy, at),
                          AT(a->sums_dy_x_hat, at),
                          together,
                          a->by_channels};
}

/* ---- the plan ---- */

enum {
    BLOCK_CHANNELS = 512,
    /* Two groups of this many elements (256 KiB) fit in L2. */
    L2_GROUP = 65536
};

static void creg_group_norm_plan(creg_group_norm *a)
{
    const ptrdiff_t groups = a->groups.shape.c, together = a->channels.shape.c / groups;
    const ptrdiff_t group = a->groups.shape.n * a->groups.shape.s, sample = groups * group;
    a->by_channels = a->channels.dy || (a->groups.shape.n > 1 && together > 1 && together < CREG_LANES);
    cut_batch(&a->channels);
    cut_batch(&a->groups);
    a->channels.count = a->groups.count;
    const ptrdiff_t step = max_size(1, TASK_CHANNELS / together);
    a->groups.channelwise = with_tasks((creg_cut){.chunks = 1}, a->groups.shape, 1, step);
    a->channels.channelwise = with_tasks((creg_cut){.chunks = 1}, a->channels.shape, 1, step * together);

    /* Whole groups, or channels last, where groups share cache lines, whole samples. In a small call, one loop of few
     * tasks takes less time than three loops. */
    const int last = a->groups.shape.n > 1;
    const ptrdiff_t most = max_size(1, BLOCK_CHANNELS / together);
    const ptrdiff_t block = last ? groups : min_size(most, max_size(1, CREG_TASK / max_size(1, group)));
    a->sample_step = max_size(1, CREG_TASK / max_size(1, sample));
    const ptrdiff_t tasks = ceil_div(a->samples, a->sample_step) * ceil_div(groups, block);
    a->whole = a->channels.out && (last ? sample : group) <= CACHED_ELEMENTS &&
               (tasks >= WHOLE_TASKS || a->samples * sample <= WHOLE_TASKS * CREG_TASK * min_size(tasks, 2));
    if (!a->whole) return;
    cut_whole_channels(&a->groups, min_size(block, groups));
    cut_whole_channels(&a->channels, min_size(block, groups) * together);
}

/* ---- the steps of a sample ---- */

/* The sums of the channels or of the groups. */
static void group_sums(const group_sample *a, ptrdiff_t task)
{
    creg_batch_norm summed = a->by_channels ? a->channels : a->groups;
    creg_batch_norm_sums(&summed, task);
}

/* Gives the channels of a group its statistics. */
CREG_INLINE void spread_statistics(const group_sample *a, ptrdiff_t g)
{
    const creg_channels *to = &a->channels.channels;
    const ptrdiff_t c0 = g * a->together, c1 = c0 + a->together;
    const double mean = a->groups.channels.mean[g], rstd = a->groups.rstd[g];
    const float hi = (float)mean, lo = (float)(mean - (double)hi);
    double *restrict means = to->mean, *restrict rstds = a->channels.rstd;
    float *restrict his = to->hi, *restrict los = to->lo;
    unsigned char *restrict exacts = to->exact, exact = a->groups.channels.exact[g];
    for (ptrdiff_t c = c0; c < c1; c++) means[c] = mean, rstds[c] = rstd, his[c] = hi, los[c] = lo, exacts[c] = exact;
}

/* The moments of groups from those of their channels, which have equal counts. */
static void combine_moments(const group_sample *a, ptrdiff_t g0, ptrdiff_t g1)
{
    const ptrdiff_t together = a->together;
    const double count = a->groups.count / (double)together;
    for (ptrdiff_t g = g0; g < g1; g++) {
        const double *mean = a->channels.channels.mean + g * together, *m2 = a->channels.var + g * together;
        double sum = 0.0, squares = 0.0;
        for (ptrdiff_t k = 0; k < together; k++) sum += mean[k];
        const double centre = sum / (double)together;
        for (ptrdiff_t k = 0; k < together; k++) squares += m2[k] + count * ((mean[k] - centre) * (mean[k] - centre));
        a->groups.channels.mean[g] = centre;
        a->groups.var[g] = squares;
    }
}

static void group_statistics(const group_sample *a, ptrdiff_t g0, ptrdiff_t g1)
{
    const creg_batch_norm *channels = &a->channels;
    const ptrdiff_t c = g0 * a->together, n = (g1 - g0) * a->together;
    if (a->by_channels) {
        merge_moments(channels, c, c + n);
        combine_moments(a, g0, g1);
    } else
        merge_moments(&a->groups, g0, g1);
    finish_statistics(&a->groups, g0, g1);
    for (ptrdiff_t g = g0; g < g1; g++) spread_statistics(a, g);
    set_scales(channels, channels->gamma, c, n);
    set_bias(channels, c, n);
}

/* dx = dy * scale - k1 - d * k2 with scale = gamma * rstd, k1 = rstd * mean(g), k2 = rstd^2 * mean(g * x_hat). Takes
 * the sums of dy and dy * d of the group's channels from k1_64 and k2_64. */
static void group_means(const group_sample *a, ptrdiff_t g)
{
    const creg_batch_norm *b = &a->channels;
    const creg_channels *ch = &b->channels;
    const double rstd = a->groups.rstd[g], count = b->count, per_count = 1.0 / count;
    const ptrdiff_t c0 = g * a->together, n = a->together;
    const float *restrict gamma = AT(b->gamma, c0);
    double *restrict k1_64 = ch->k1_64 + c0, *restrict k2_64 = ch->k2_64 + c0;
    float *restrict k1_32 = ch->k1 + c0, *restrict k2_32 = ch->k2 + c0;
    unsigned char *restrict exacts = ch->exact + c0, exact = memchr(exacts, 1, (size_t)n) != NULL;
    double sum_g = 0.0, sum_g_x_hat = 0.0;
    for (ptrdiff_t c = 0; c < n; c++) {
        const double gain = gamma ? (double)gamma[c] : 1.0;
        sum_g += gain * k1_64[c];
        sum_g_x_hat += gain * (k2_64[c] * rstd);
    }
    const double k1 = rstd * (sum_g * per_count), k2 = rstd * (sum_g_x_hat * per_count) * rstd;
    exact |= fabs(sum_g) + fabs(sum_g_x_hat) > LARGEST_SAFE_GRADIENT * count;
    exact |= fabs(k1) + fabs(k2) > LARGEST_SAFE_GRADIENT;
    exact |= !fits_float(k1) || !fits_float(k2);
    for (ptrdiff_t c = 0; c < n; c++) {
        k1_64[c] = k1, k2_64[c] = k2;
        k1_32[c] = (float)k1, k2_32[c] = (float)k2;
        exacts[c] |= exact;
    }
}

/* The sample's terms of dgamma and dbeta. */
static void keep_grad_sums(const group_sample *a, ptrdiff_t c0, ptrdiff_t c1)
{
    const creg_channels *ch = &a->channels.channels;
    for (ptrdiff_t c = c0; c < c1; c++) {
        a->sums_dy[c] = ch->k1_64[c];
        a->sums_dy_x_hat[c] = ch->k2_64[c] * a->channels.rstd[c];
    }
}

static void group_gradients(const group_sample *a, ptrdiff_t g0, ptrdiff_t g1)
{
    const creg_batch_norm *channels = &a->channels;
    const ptrdiff_t c = g0 * a->together, n = (g1 - g0) * a->together;
    merge_grad_sums(channels, c, c + n);
    set_scales(channels, channels->gamma, c, n);
    if (a->sums_dy) keep_grad_sums(a, c, c + n);
    if (a->together == 1)
        set_grad_means(channels, c, n);
    else
        for (ptrdiff_t g = g0; g < g1; g++) group_means(a, g);
}

static void group_merge(const group_sample *a, ptrdiff_t task)
{
    const batch_part part = part_of_task(&a->groups, &a->groups.channelwise, task);
    if (a->channels.dy)
        group_gradients(a, part.c0, part.c1);
    else
        group_statistics(a, part.c0, part.c1);
}

static void group_centres(const group_sample *a, ptrdiff_t task)
{
    const batch_part part = part_of_task(&a->groups, &a->groups.channelwise, task);
    for (ptrdiff_t g = part.c0; g < part.c1; g++) spread_statistics(a, g);
}

static void group_apply(const group_sample *a, ptrdiff_t task)
{
    const creg_batch_norm *b = &a->channels;
    if (!b->dy)
        write_affine(b->x, b, task);
    else if (a->together == 1)
        write_gradient(b, task);
    else
        write_task((tensors){b->dy, b->x, b->out}, b, task, OF_GROUPS);
}

/* ---- the kernels ---- */

/* Runs a step of one sample; `per` tasks make a sample. */
CREG_INLINE void run_step(const creg_group_norm *a, ptrdiff_t per, ptrdiff_t task,
                          void (*step)(const group_sample *, ptrdiff_t))
{
    const group_sample one = sample_at(a, task / per, 0, a->groups.shape.c);
    step(&one, task % per);
}

static void creg_group_norm_centres(void *norm, ptrdiff_t task)
{
    const creg_group_norm *a = norm;
    run_step(a, a->groups.channelwise.tasks, task, group_centres);
}

static void creg_group_norm_sums(void *norm, ptrdiff_t task)
{
    const creg_group_norm *a = norm;
    run_step(a, a->by_channels ? a->channels.summed.tasks : a->groups.summed.tasks, task, group_sums);
}

static void creg_group_norm_merge(void *norm, ptrdiff_t task)
{
    const creg_group_norm *a = norm;
    run_step(a, a->groups.channelwise.tasks, task, group_merge);
}

static void creg_group_norm_apply(void *norm, ptrdiff_t task)
{
    const creg_group_norm *a = norm;
    run_step(a, a->channels.written.tasks, task, group_apply);
}

/* The parameters of a task of whole groups, which stay in L1. */
typedef struct {
    double mean[BLOCK_CHANNELS], rstd[BLOCK_CHANNELS], var[BLOCK_CHANNELS];
    double scale64[BLOCK_CHANNELS], k1_64[BLOCK_CHANNELS], k2_64[BLOCK_CHANNELS];
    float hi[BLOCK_CHANNELS], lo[BLOCK_CHANNELS], scale[BLOCK_CHANNELS], bias[BLOCK_CHANNELS], k1[BLOCK_CHANNELS],
        k2[BLOCK_CHANNELS];
    unsigned char exact[BLOCK_CHANNELS];
} block_channels;

static void use_block(creg_batch_norm *b, block_channels *p)
{
    b->rstd = p->rstd, b->var = p->var;
    b->channels = (creg_channels){.hi = p->hi,
                                  .lo = p->lo,
                                  .scale = p->scale,
                                  .bias = p->bias,
                                  .k1 = p->k1,
                                  .k2 = p->k2,
                                  .mean = p->mean,
                                  .scale64 = p->scale64,
                                  .k1_64 = p->k1_64,
                                  .k2_64 = p->k2_64,
                                  .exact = p->exact};
}

/* Whether the pass that writes groups prefetches the next ones into L2: planes, where these are contiguous, of groups
 * that fit in L2 but lie in the LLC. */
CREG_INLINE int prefetches_next(const creg_group_norm *a)
{
    const creg_shape shape = a->groups.shape;
    return shape.n == 1 && shape.s >= CREG_PANEL && shape.s <= L2_GROUP && a->channels.where != CREG_STREAM &&
           a->samples * shape.c * shape.s > CACHED_ELEMENTS;
}

static void creg_group_norm_whole(void *norm, ptrdiff_t task)
{
    const creg_group_norm *a = norm;
    const ptrdiff_t per = a->groups.channelwise.tasks, step = a->groups.channelwise.channel_step;
    const ptrdiff_t first = task / per * a->sample_step, g = task % per * step;
    block_channels parameters;
    for (ptrdiff_t i = first; i < min_size(first + a->sample_step, a->samples); i++) {
        group_sample one = sample_at(a, i, g, min_size(step, a->groups.shape.c - g));
        if (a->channels.channelwise.channel_step <= BLOCK_CHANNELS) use_block(&one.channels, &parameters);
        if (prefetches_next(a) && (i + 1 < a->samples || g + step < a->groups.shape.c))
            one.channels.next = one.channels.shape.c * one.channels.shape.s;
        if (a->channels.dy) group_centres(&one, 0);
        group_sums(&one, 0);
        group_merge(&one, 0);
        group_apply(&one, 0);
    }
}

static void creg_group_norm_reduce(void *norm, ptrdiff_t task)
{
    const creg_group_norm *a = norm;
    const ptrdiff_t c = a->channels.shape.c, j = task * CREG_MERGE_TILE, n = min_size(CREG_MERGE_TILE, c - j);
    merge_sums(a->sums_dy_x_hat + j, a->samples, c, n, a->dgamma + j);
    merge_sums(a->sums_dy + j, a->samples, c, n, a->dbeta + j);
}

#endif
