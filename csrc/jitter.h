/* Colour jitter of images with values in [0, 1], in this order. The readable twin: cregkit/oracle/images.py
 *
 * Gray         0.299 R + 0.587 G + 0.114 B (ITU-R BT.601); of any other number of channels their mean
 * Brightness   x = clip(b x)
 * Contrast     x = clip(c x + (1 - c) m), m the mean of gray over the image after brightness
 * Saturation   x = clip(s x + (1 - s) gray(x))
 * Hue          the angle of x in the hexcone of HSV, turned by h turns (Smith, 1978, "Color Gamut Transform Pairs")
 * Numerics     clip is to [0, 1] and keeps NaN. A factor of 1 (a hue of a whole turn) skips its step, clip included.
 *              Hue has no branches: with V the largest channel, D = V - the smallest, and w in [-1, 5) the colour's
 *              sector, channel n of (5, 3, 1) is V - D clip(2 - |w + 6 h + n - 2|), the distance being that to the
 *              nearest multiple of 6. V and D stay: gray stays gray and no value leaves [0, 1].
 * Layout       The pass that writes y also finds the range of x, so that the check for colours reads no memory.
 */
#ifndef CREG_JITTER_H
#define CREG_JITTER_H

#include "images.h"
#include "safety.h"
#include "stores.h"

/* Channel c of pixel p is x[p * step + c * plane]. */
typedef struct {
    const float *x;
    ptrdiff_t n, step, plane; /* n pixels */
    int channels;
    float brightness;
} colours;

typedef struct {
    vf c[3];
} colour;

/* Values that exceed [0, 1] by at most this are rounded colours; others have another scale. */
#define COLOUR_EXCESS 1e-3f

CREG_INLINE int range_of_colours(range seen)
{
    return all_at_most(seen.high, 1.0f + COLOUR_EXCESS) && all_at_most(v_sub(v_set1(0.0f), seen.low), COLOUR_EXCESS);
}

static int are_colours(const float *x, ptrdiff_t n) { return range_of_colours(range_of(of_floats, x, n)); }

/* Several threads may call it at once. */
static void check(creg_images *a, int holds)
{
    if (!holds) __atomic_store_n(&a->out_of_range, 1, __ATOMIC_RELAXED);
}

CREG_INLINE void check_colours(creg_images *a, ptrdiff_t i) { check(a, are_colours(a->x + i * a->size, a->size)); }

static void creg_check_colours(void *images, ptrdiff_t task) { each_image(images, task, check_colours); }

CREG_INLINE vf clipped(vf x) { return v_min(v_set1(1.0f), v_max(v_set1(0.0f), x)); }
CREG_INLINE vf brightened(vf x, float factor) { return factor == 1.0f ? x : clipped(v_mul(v_set1(factor), x)); }

/* min(CREG_W, left) pixels after brightness. Colours before brightness widen `seen`, unless it is NULL. */
CREG_INLINE colour load_colour(const colours *a, ptrdiff_t at, ptrdiff_t left, ranges *seen)
{
    colour v;
    const ptrdiff_t n = min_size(left, CREG_W);
    for (int c = 0; c < 3; c++) {
        const float *x = a->x + at * a->step + (c < a->channels ? c : 0) * a->plane;
        if (a->step == 1) {
            v.c[c] = v_load_part(x, n);
            continue;
        }
        float part[CREG_W] = {0};
        for (ptrdiff_t i = 0; i < n; i++) part[i] = x[i * a->step];
        v.c[c] = v_load(part);
    }
    for (int c = 0; c < 3 && seen; c++) widen(&seen->of[c], v.c[c]);
    for (int c = 0; c < 3; c++) v.c[c] = brightened(v.c[c], a->brightness);
    return v;
}

CREG_INLINE void store_colour(float *y, const colours *a, ptrdiff_t at, ptrdiff_t left, const colour *v)
{
    const ptrdiff_t n = min_size(left, CREG_W);
    for (int c = 0; c < a->channels; c++) {
        float *to = y + at * a->step + c * a->plane;
        if (a->step == 1) {
            v_store_part(to, v->c[c], n);
            continue;
        }
        float part[CREG_W];
        v_store(part, v->c[c]);
        for (ptrdiff_t i = 0; i < n; i++) to[i * a->step] = part[i];
    }
}

CREG_INLINE vf gray_of(const colour *v, int channels)
{
    if (channels == 1) return v->c[0];
    const vf red = v_mul(v_set1(0.299f), v->c[0]), green = v_mul(v_set1(0.587f), v->c[1]);
    return v_add(v_add(red, green), v_mul(v_set1(0.114f), v->c[2]));
}

CREG_INLINE vf2 gray_terms(const void *ctx, ptrdiff_t at, const vw *cut)
{
    const colours *a = ctx;
    const colour v = load_colour(a, at, a->n - at, NULL);
    return (vf2){v_cut(gray_of(&v, a->channels), cut), v_set1(0.0f)};
}

static CREG_NOINLINE float gray_mean(colours a)
{
    double sum = 0.0;
    for (ptrdiff_t i = 0; i < a.n; i += CREG_PANEL)
        sum += (double)panel_sums(gray_terms, &a, i, min_size(CREG_PANEL, a.n - i)).a;
    return (float)(sum / (double)a.n);
}

CREG_INLINE vf v_distance(vf a, vf b) { return v_max(v_sub(a, b), v_sub(b, a)); }

CREG_INLINE void turn_hue(colour *v, vf six_hue)
{
    const vf r = v->c[0], g = v->c[1], b = v->c[2], zero = v_set1(0.0f), one = v_set1(1.0f), two = v_set1(2.0f);
    const vf largest = v_max(v_max(r, g), b), range = v_sub(largest, v_min(v_min(r, g), b));
    const vm red = v_equal(largest, r), green = v_equal(largest, g);
    const vf difference = v_select(red, v_sub(g, b), v_select(green, v_sub(b, r), v_sub(r, g)));
    const vf sector = v_select(red, zero, v_select(green, two, v_set1(4.0f)));
    const vf safe = v_select(v_equal(range, zero), one, range);
    const vf w = v_add(v_add(v_div(difference, safe), sector), six_hue); /* in [-1, 11) */
    for (int c = 0; c < 3; c++) {
        const vf z = v_add(w, v_set1(3.0f - 2.0f * (float)c));
        vf distance = v_min(v_distance(z, zero), v_distance(z, v_set1(6.0f)));
        distance = v_min(distance, v_distance(z, v_set1(12.0f)));
        v->c[c] = v_sub(largest, v_mul(range, clipped(v_sub(two, distance))));
    }
}

/* The hue without whole turns, in [0, 1). */
static float turn_fraction(float hue)
{
    if (hue >= 0x1p24f || hue <= -0x1p24f) return 0.0f; /* floats of that size are whole numbers */
    const float rest = hue - (float)(int32_t)hue, turn = rest < 0.0f ? rest + 1.0f : rest;
    return turn < 1.0f ? turn : 0.0f;
}

/* Brightness of n elements, in any layout. */
static int brighten(const float *x, float *y, ptrdiff_t n, float factor)
{
    if (factor == 1.0f && x == y) return are_colours(x, n);
    ranges seen = no_ranges();
    ptrdiff_t i = 0;
    for (; i + RANGES * CREG_W <= n; i += RANGES * CREG_W) /* main loop */
        for (int k = 0; k < RANGES; k++) {
            const vf v = v_load(x + i + k * CREG_W);
            widen(&seen.of[k], v);
            v_store(y + i + k * CREG_W, brightened(v, factor));
        }
    for (; i < n; i += CREG_W) { /* tail */
        const vf v = v_load_part(x + i, n - i);
        widen(&seen.of[0], v);
        v_store_part(y + i, brightened(v, factor), n - i);
    }
    return range_of_colours(merged(&seen));
}

/* The steps after brightness. */
typedef struct {
    float contrast, saturation, hue, mean;
} recolouring;

/* min(CREG_W, left) pixels. */
CREG_INLINE void recolour(const colours *a, const recolouring *r, float *y, ptrdiff_t at, ptrdiff_t left, ranges *seen)
{
    colour v = load_colour(a, at, left, seen);
    const vf shift = v_mul(v_set1(1.0f - r->contrast), v_set1(r->mean));
    for (int c = 0; c < 3 && r->contrast != 1.0f; c++)
        v.c[c] = clipped(v_add(v_mul(v_set1(r->contrast), v.c[c]), shift));
    if (r->saturation != 1.0f) {
        const vf gray = v_mul(v_set1(1.0f - r->saturation), gray_of(&v, a->channels));
        for (int c = 0; c < 3; c++) v.c[c] = clipped(v_add(v_mul(v_set1(r->saturation), v.c[c]), gray));
    }
    if (r->hue != 0.0f) turn_hue(&v, v_set1(6.0f * r->hue));
    store_colour(y, a, at, left, &v);
}

/* Compiled once per layout, which is constant where this function is inlined. */
CREG_INLINE int recolour_all(colours a, recolouring r, float *y)
{
    ranges seen = no_ranges();
    ptrdiff_t i = 0;
    for (; i + CREG_W <= a.n; i += CREG_W) recolour(&a, &r, y, i, CREG_W, &seen);
    if (i < a.n) recolour(&a, &r, y, i, a.n - i, &seen);
    return range_of_colours(merged(&seen));
}

/* Without 3 channels, gray is the mean of the channels: all values are treated as pixels of one gray image. */
CREG_INLINE void jitter_image(creg_images *a, ptrdiff_t i)
{
    const float *x = a->x + i * a->size, *factors = a->factors + 4 * i;
    float *y = a->y + i * a->size;
    const int coloured = a->planes * a->pixel == 3;
    const ptrdiff_t n = coloured ? a->height * a->width : a->size;
    const colours gray = {.x = x, .n = n, .step = 1, .plane = n, .channels = 1, .brightness = factors[0]};
    const colours planes = {.x = x, .n = n, .step = 1, .plane = n, .channels = 3, .brightness = factors[0]};
    const colours pixels = {.x = x, .n = n, .step = 3, .plane = 1, .channels = 3, .brightness = factors[0]};
    const colours *own = !coloured ? &gray : a->pixel == 3 ? &pixels : &planes;
    recolouring r = {.contrast = factors[1], .saturation = 1.0f};
    if (coloured) r.saturation = factors[2], r.hue = turn_fraction(factors[3]);
    if (r.contrast != 1.0f) r.mean = gray_mean(*own);
    if (r.contrast == 1.0f && r.saturation == 1.0f && r.hue == 0.0f)
        check(a, brighten(x, y, a->size, factors[0]));
    else if (own == &gray)
        check(a, recolour_all(gray, r, y));
    else if (own == &pixels)
        check(a, recolour_all(pixels, r, y));
    else
        check(a, recolour_all(planes, r, y));
}

static void creg_jitter_images(void *images, ptrdiff_t task) { each_image(images, task, jitter_image); }

#endif
