/* Geometry of images: crop, flip, rotation, a box filled or pasted; and the mixture of two images. The readable twin:
 * cregkit/oracle/images.py
 *
 * Crop       y[r, c] = x[top + r, left + c], outside of x zeros or its reflection about the first and last pixel
 * Flip       y[r, c] = x[r, w - 1 - c], or x[h - 1 - r, c], or both
 * Rotation   y[r, c] = x at (r0 + (r - r0) cos + (c - c0) sin, c0 + (c - c0) cos - (r - r0) sin), bilinear
 * Box        y = x, but `other` or `fill` within the box (DeVries and Taylor, 2017, arXiv:1708.04552; Yun et al., 2019,
 *            arXiv:1905.04899)
 * Mixture    y = weight * x + (1 - weight) * other (Zhang et al., 2018, arXiv:1710.09412)
 * Numerics   Only rotation and mixture compute. Sine and cosine are series, exact at multiples of 90 degrees.
 * Layout     An image is `planes` planes of height x width pixels of `pixel` floats: (channels, 1) with the channels
 *            first, (1, channels) with the channels last.
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

/* Processes image i. */
typedef void image_step(creg_images *a, ptrdiff_t i);

CREG_INLINE void each_image(creg_images *a, ptrdiff_t task, image_step *step)
{
    const ptrdiff_t end = min_size(a->n, (task + 1) * a->block);
    for (ptrdiff_t i = task * a->block; i < end; i++) step(a, i);
}

/* ---- crop ---- */

/* The index in 0 .. n - 1 that i reflects to, about the first and the last index: 2 1 | 0 1 2 3 | 2 1. */
static ptrdiff_t reflected(ptrdiff_t i, ptrdiff_t n)
{
    if (n == 1) return 0;
    const ptrdiff_t period = 2 * (n - 1), r = i % period, at = r < 0 ? r + period : r;
    return at < n ? at : period - at;
}

/* Pixels [from, to) of an output row, which lie outside the image: zeros or reflections. y points at pixel 0. */
CREG_INLINE void crop_outside(const creg_images *a, const float *row, float *y, ptrdiff_t from, ptrdiff_t to,
                              ptrdiff_t left)
{
    const ptrdiff_t pixel = a->pixel;
    if (!a->reflect) {
        if (from < to) memset(y + from * pixel, 0, float_bytes((to - from) * pixel));
        return;
    }
    for (ptrdiff_t i = from; i < to; i++)
        memcpy(y + i * pixel, row + reflected(left + i, a->width) * pixel, float_bytes(pixel));
}

CREG_INLINE void crop_image(creg_images *images, ptrdiff_t image)
{
    const creg_images a = *images; /* a copy: stores to y cannot alias it */
    const ptrdiff_t top = a.geometry[2 * image], left = a.geometry[2 * image + 1], row = a.width * a.pixel;
    const ptrdiff_t width = a.crop_width, c0 = clamp_size(-left, 0, width), c1 = clamp_size(a.width - left, c0, width);
    const float *x = a.x + image * a.size;
    float *y = a.y + image * a.crop_size;
    for (ptrdiff_t plane = 0; plane < a.planes; plane++, x += a.height * row)
        for (ptrdiff_t i = 0; i < a.crop_height; i++, y += width * a.pixel) {
            const ptrdiff_t r = a.reflect ? reflected(top + i, a.height) : top + i;
            if (r < 0 || r >= a.height) {
                memset(y, 0, float_bytes(width * a.pixel));
                continue;
            }
            crop_outside(&a, x + r * row, y, 0, c0, left);
            if (c0 < c1)
                memcpy(y + c0 * a.pixel, x + r * row + (left + c0) * a.pixel, float_bytes((c1 - c0) * a.pixel));
            crop_outside(&a, x + r * row, y, c1, width, left);
        }
}

static void creg_crop_images(void *images, ptrdiff_t task) { each_image(images, task, crop_image); }

/* ---- flip ---- */

/* From both ends at once, because y may be x. */
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
static CREG_NOINLINE void reverse_items(const float *x, float *y, ptrdiff_t n, ptrdiff_t size)
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

/* A vertical flip reverses the rows of each plane, a horizontal flip the pixels of each row, both flips the pixels of
 * each plane. */
static void flip_image(creg_images *images, ptrdiff_t image)
{
    const creg_images a = *images; /* a copy: stores to y cannot alias it */
    const int64_t flips = a.geometry[image];
    const ptrdiff_t row = a.width * a.pixel, item = flips & CREG_FLIP_HORIZONTAL ? a.pixel : row;
    const ptrdiff_t part = flips & CREG_FLIP_VERTICAL ? a.height * row : row, items = part / item;
    const float *x = a.x + image * a.size;
    float *y = a.y + image * a.size;
    if (flips == CREG_FLIP_NONE && x != y) memcpy(y, x, float_bytes(a.size));
    for (ptrdiff_t i = 0; flips != CREG_FLIP_NONE && i < a.size; i += part) reverse_items(x + i, y + i, items, item);
}

static void creg_flip_images(void *images, ptrdiff_t task) { each_image(images, task, flip_image); }

/* ---- rotation ---- */

/* Sine and cosine of an angle in degrees, by their series about the nearest multiple of 90: exact there, with an error
 * below 1e-15 elsewhere. */
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

/* A coordinate: its pixel, and the weights of that and of the next pixel. */
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

/* The usual output pixel, with all four neighbours inside. x and y point at the image and at the pixel. */
CREG_INLINE void rotate_inside(const creg_images *a, const float *x, float *y, between r, between c)
{
    const ptrdiff_t row = a->width * a->pixel, plane = a->height * row, pixel = a->pixel;
    const float *at = x + r.at * row + c.at * pixel;
    for (ptrdiff_t p = 0; p < a->planes; p++, at += plane, y += plane)
        for (ptrdiff_t k = 0; k < pixel; k++)
            y[k] = weighted(r, c, at[k], at[k + pixel], at[k + row], at[k + row + pixel]);
}

/* An output pixel with a neighbour outside the image. */
static void rotate_edge(const creg_images *a, const float *x, float *y, between r, between c)
{
    const ptrdiff_t row = a->width * a->pixel, plane = a->height * row;
    for (ptrdiff_t p = 0; p < a->planes; p++, x += plane, y += plane)
        for (ptrdiff_t k = 0; k < a->pixel; k++) {
            float v[4];
            for (int j = 0; j < 4; j++) {
                const ptrdiff_t at_r = r.at + j / 2, at_c = c.at + j % 2;
                const int inside = is_within(at_r, a->height) && is_within(at_c, a->width);
                v[j] = inside ? x[at_r * row + at_c * a->pixel + k] : a->fill;
            }
            y[k] = weighted(r, c, v[0], v[1], v[2], v[3]);
        }
}

/* Counterclockwise about the centre. Pixels outside x are `fill`. */
CREG_INLINE void rotate_image(creg_images *images, ptrdiff_t index)
{
    const creg_images a = *images; /* a copy: stores to y cannot alias it */
    const float *x = a.x + index * a.size;
    float *y = a.y + index * a.size;
    if (a.degrees[index] == 0.0) {
        memcpy(y, x, float_bytes(a.size));
        return;
    }
    double sine, cosine;
    turn_of(a.degrees[index], &sine, &cosine);
    const double r0 = (double)(a.height - 1) / 2, c0 = (double)(a.width - 1) / 2;
    for (ptrdiff_t i = 0; i < a.height; i++)
        for (ptrdiff_t j = 0; j < a.width; j++, y += a.pixel) {
            const double dr = (double)i - r0, dc = (double)j - c0;
            const between r = between_of(r0 + (dr * cosine + dc * sine));
            const between c = between_of(c0 + (dc * cosine - dr * sine));
            if (is_within(r.at, a.height - 1) && is_within(c.at, a.width - 1))
                rotate_inside(&a, x, y, r, c);
            else
                rotate_edge(&a, x, y, r, c);
        }
}

static void creg_rotate_images(void *images, ptrdiff_t task) { each_image(images, task, rotate_image); }

/* ---- boxes and mixtures ---- */

/* y = x outside the box; within it `other`, or `fill` if `other` is NULL. */
CREG_INLINE void box_image(creg_images *images, ptrdiff_t image)
{
    const creg_images a = *images; /* a copy: stores to y cannot alias it */
    const int64_t *box = a.geometry + 4 * image;
    const ptrdiff_t r0 = clamp_size(box[0], 0, a.height), c0 = clamp_size(box[1], 0, a.width);
    const ptrdiff_t r1 = clamp_size(box[2], r0, a.height), c1 = clamp_size(box[3], c0, a.width);
    const ptrdiff_t n = (c1 - c0) * a.pixel;
    const float *x = a.x + image * a.size, *other = AT(a.other, image * a.size);
    float *y = a.y + image * a.size;
    if (x != y) memcpy(y, x, float_bytes(a.size));
    for (ptrdiff_t plane = 0; plane < a.planes; plane++)
        for (ptrdiff_t r = r0; r < r1; r++) {
            const ptrdiff_t at = ((plane * a.height + r) * a.width + c0) * a.pixel;
            if (other)
                memcpy(y + at, other + at, float_bytes(n));
            else
                for (ptrdiff_t k = 0; k < n; k++) y[at + k] = a.fill;
        }
}

static void creg_box_images(void *images, ptrdiff_t task) { each_image(images, task, box_image); }

/* y = weight * x + (1 - weight) * other. */
CREG_INLINE void mix_image(creg_images *a, ptrdiff_t i)
{
    const ptrdiff_t n = a->size;
    const float *x = a->x + i * n, *other = a->other + i * n;
    float *y = a->y + i * n;
    const vf w = v_set1(a->factors[i]), rest = v_set1(1.0f - a->factors[i]);
    for (ptrdiff_t j = 0; j < n; j += CREG_W) {
        const vf mixed = v_add(v_mul(w, v_load_part(x + j, n - j)), v_mul(rest, v_load_part(other + j, n - j)));
        v_store_part(y + j, mixed, n - j);
    }
}

static void creg_mix_images(void *images, ptrdiff_t task) { each_image(images, task, mix_image); }

#endif
