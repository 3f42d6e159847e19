/* Geometry of one image: crop, flip, rotation, a box filled or pasted; and the mixture of two.
 *
 * An image is `planes` planes of height x width pixels, a pixel being `pixel` floats: (channels, 1) with the channels
 * first, (1, channels) with the channels last. Everything but rotation moves numbers and computes none.
 */
#ifndef CREG_IMAGES_H
#define CREG_IMAGES_H

#include "safety.h"
#include "stores.h"

static size_t float_bytes(ptrdiff_t n) { return sizeof(float) * (size_t)n; }

CREG_INLINE ptrdiff_t clamp_size(ptrdiff_t a, ptrdiff_t low, ptrdiff_t high)
{
    return a < low ? low : a > high ? high : a;
}

static ptrdiff_t image_size(creg_image a) { return a.planes * a.height * a.width * a.pixel; }

/* ---- crop ---- */

/* Where i lies in 0 .. n - 1 continued by reflection about its first and last: 2 1 | 0 1 2 3 | 2 1. */
static ptrdiff_t reflected(ptrdiff_t i, ptrdiff_t n)
{
    if (n == 1) return 0;
    const ptrdiff_t period = 2 * (n - 1), r = i % period, at = r < 0 ? r + period : r;
    return at < n ? at : period - at;
}

/* Pixels [from, to) of a row of which the image has none: zeros, or reflections. y points at pixel 0. */
static void crop_outside(const float *row, float *y, ptrdiff_t from, ptrdiff_t to, ptrdiff_t left, creg_image image,
                         int reflect)
{
    if (!reflect) {
        if (from < to) memset(y + from * image.pixel, 0, float_bytes((to - from) * image.pixel));
        return;
    }
    for (ptrdiff_t i = from; i < to; i++)
        memcpy(y + i * image.pixel, row + reflected(left + i, image.width) * image.pixel, float_bytes(image.pixel));
}

/* y: the window of height x width pixels whose first pixel is (top, left) of x. */
static void creg_crop_image(const float *x, float *y, creg_image image, ptrdiff_t top, ptrdiff_t left, ptrdiff_t height,
                            ptrdiff_t width, int reflect)
{
    const ptrdiff_t c0 = clamp_size(-left, 0, width), c1 = clamp_size(image.width - left, c0, width);
    for (ptrdiff_t plane = 0; plane < image.planes; plane++, x += image.height * image.width * image.pixel)
        for (ptrdiff_t i = 0; i < height; i++, y += width * image.pixel) {
            const ptrdiff_t r = reflect ? reflected(top + i, image.height) : top + i;
            if (r < 0 || r >= image.height) {
                memset(y, 0, float_bytes(width * image.pixel));
                continue;
            }
            const float *row = x + r * image.width * image.pixel;
            crop_outside(row, y, 0, c0, left, image, reflect);
            if (c0 < c1)
                memcpy(y + c0 * image.pixel, row + (left + c0) * image.pixel, float_bytes((c1 - c0) * image.pixel));
            crop_outside(row, y, c1, width, left, image, reflect);
        }
}

/* ---- flip ---- */

/* Both ends at once, so that y may be x. */
static void reverse_floats(const float *x, float *y, ptrdiff_t n)
{
    ptrdiff_t i = 0, j = n;
    for (; j - i >= 2 * CREG_W; i += CREG_W) { /* main loop */
        j -= CREG_W;
        const vf a = v_load(x + i), b = v_load(x + j);
        v_store(y + i, v_reverse(b));
        v_store(y + j, v_reverse(a));
    }
    for (; i < j; i++) { /* tail */
        j--;
        const float a = x[i];
        y[i] = x[j];
        y[j] = a;
    }
}

/* y: n items of `size` floats in reverse order. */
static void reverse_items(const float *x, float *y, ptrdiff_t n, ptrdiff_t size)
{
    if (size == 1) {
        reverse_floats(x, y, n);
        return;
    }
    for (ptrdiff_t i = 0, j = n - 1; i <= j; i++, j--)
        for (ptrdiff_t k = 0; k < size; k += CREG_W) {
            const vf a = v_load_part(x + i * size + k, size - k), b = v_load_part(x + j * size + k, size - k);
            v_store_part(y + i * size + k, b, size - k);
            v_store_part(y + j * size + k, a, size - k);
        }
}

/* Upside down, a plane is its rows in reverse order; left to right, each row is its pixels so; both, all pixels are. */
static void creg_flip_image(const float *x, float *y, creg_image image, int flips)
{
    const ptrdiff_t row = image.width * image.pixel, plane = image.height * row;
    if (flips == CREG_FLIP_NONE && x != y) memcpy(y, x, float_bytes(image.planes * plane));
    if (flips == CREG_FLIP_HORIZONTAL)
        for (ptrdiff_t i = 0; i < image.planes * image.height; i++)
            reverse_items(x + i * row, y + i * row, image.width, image.pixel);
    if (flips == CREG_FLIP_VERTICAL)
        for (ptrdiff_t i = 0; i < image.planes; i++) reverse_items(x + i * plane, y + i * plane, image.height, row);
    if (flips == (CREG_FLIP_HORIZONTAL | CREG_FLIP_VERTICAL))
        for (ptrdiff_t i = 0; i < image.planes; i++)
            reverse_items(x + i * plane, y + i * plane, image.height * image.width, image.pixel);
}

/* ---- rotation ---- */

/* Sine and cosine of an angle in degrees, by their series about the nearest multiple of 90: exact there, and below
 * 1e-15 off elsewhere. */
static void turn_of(double degrees, double *sine, double *cosine)
{
    const double quarters = degrees / 90.0;
    const int64_t quarter = (int64_t)(quarters < 0 ? quarters - 0.5 : quarters + 0.5);
    const double a = (degrees - 90.0 * (double)quarter) * 0.017453292519943295, q = a * a;
    double s = 0.0, c = 0.0;
    for (int k = 18; k > 0; k -= 2) { /* 1 - q / (k (k - 1)) (1 - ...) */
        c = (1.0 - c) * q / (double)(k * (k - 1));
        s = (1.0 - s) * q / (double)(k * (k + 1));
    }
    s = a * (1.0 - s);
    c = 1.0 - c;
    switch (quarter & 3) {
    case 0:
        *sine = s, *cosine = c;
        break;
    case 1:
        *sine = c, *cosine = -s;
        break;
    case 2:
        *sine = -s, *cosine = -c;
        break;
    default:
        *sine = -c, *cosine = s;
    }
}

/* Where a coordinate lies: its pixel and the weights of that and of the next. */
typedef struct {
    ptrdiff_t at;
    float here, next;
} between;

CREG_INLINE between between_of(double x)
{
    const ptrdiff_t whole = (ptrdiff_t)x, at = (double)whole > x ? whole - 1 : whole;
    const float next = (float)(x - (double)at);
    return (between){at, 1.0f - next, next};
}

CREG_INLINE int is_within(ptrdiff_t i, ptrdiff_t n) { return (size_t)i < (size_t)n; }

CREG_INLINE float weighted(between r, between c, float v00, float v01, float v10, float v11)
{
    return r.here * (c.here * v00 + c.next * v01) + r.next * (c.here * v10 + c.next * v11);
}

/* An output pixel all of whose four neighbours lie within, as they mostly do. */
CREG_INLINE void rotate_inside(const float *x, float *y, creg_image image, between r, between c)
{
    const ptrdiff_t plane = image.height * image.width * image.pixel, row = image.width * image.pixel;
    const float *at = x + r.at * row + c.at * image.pixel;
    for (ptrdiff_t p = 0; p < image.planes; p++, at += plane, y += plane)
        for (ptrdiff_t k = 0; k < image.pixel; k++)
            y[k] = weighted(r, c, at[k], at[k + image.pixel], at[k + row], at[k + row + image.pixel]);
}

/* An output pixel with neighbours outside. */
static void rotate_edge(const float *x, float *y, creg_image image, between r, between c, float fill)
{
    const ptrdiff_t plane = image.height * image.width * image.pixel, row = image.width * image.pixel;
    for (ptrdiff_t p = 0; p < image.planes; p++, x += plane, y += plane)
        for (ptrdiff_t k = 0; k < image.pixel; k++) {
            float v[4];
            for (int j = 0; j < 4; j++) {
                const ptrdiff_t at_r = r.at + j / 2, at_c = c.at + j % 2;
                const int inside = is_within(at_r, image.height) && is_within(at_c, image.width);
                v[j] = inside ? x[at_r * row + at_c * image.pixel + k] : fill;
            }
            y[k] = weighted(r, c, v[0], v[1], v[2], v[3]);
        }
}

/* Counterclockwise about the centre, bilinear; what comes from outside is `fill`. */
static void creg_rotate_image(const float *x, float *y, creg_image image, double degrees, float fill)
{
    if (degrees == 0.0) {
        memcpy(y, x, float_bytes(image_size(image)));
        return;
    }
    double sine, cosine;
    turn_of(degrees, &sine, &cosine);
    const double r0 = (double)(image.height - 1) / 2, c0 = (double)(image.width - 1) / 2;
    for (ptrdiff_t i = 0; i < image.height; i++)
        for (ptrdiff_t j = 0; j < image.width; j++, y += image.pixel) {
            const double dr = (double)i - r0, dc = (double)j - c0;
            const between r = between_of(r0 + (dr * cosine + dc * sine));
            const between c = between_of(c0 + (dc * cosine - dr * sine));
            if (is_within(r.at, image.height - 1) && is_within(c.at, image.width - 1))
                rotate_inside(x, y, image, r, c);
            else
                rotate_edge(x, y, image, r, c, fill);
        }
}

/* ---- boxes and mixtures ---- */

/* y = x, but `other` within the box, or `fill` where there is no other. */
static void creg_box_image(const float *x, const float *other, float *y, creg_image image, const int64_t box[4],
                           float fill)
{
    const ptrdiff_t r0 = clamp_size(box[0], 0, image.height), c0 = clamp_size(box[1], 0, image.width);
    const ptrdiff_t r1 = clamp_size(box[2], r0, image.height), c1 = clamp_size(box[3], c0, image.width);
    if (x != y) memcpy(y, x, float_bytes(image_size(image)));
    const ptrdiff_t n = (c1 - c0) * image.pixel;
    for (ptrdiff_t plane = 0; plane < image.planes; plane++)
        for (ptrdiff_t r = r0; r < r1; r++) {
            const ptrdiff_t at = ((plane * image.height + r) * image.width + c0) * image.pixel;
            if (other)
                memcpy(y + at, other + at, float_bytes(n));
            else
                for (ptrdiff_t i = 0; i < n; i++) y[at + i] = fill;
        }
}

/* y = weight * x + (1 - weight) * other. */
static void creg_mix(const float *x, const float *other, float *y, ptrdiff_t n, float weight)
{
    const vf w = v_set1(weight), rest = v_set1(1.0f - weight);
    for (ptrdiff_t i = 0; i < n; i += CREG_W) {
        const vf mixed = v_add(v_mul(w, v_load_part(x + i, n - i)), v_mul(rest, v_load_part(other + i, n - i)));
        v_store_part(y + i, mixed, n - i);
    }
}

#endif
