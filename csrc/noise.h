/* Random numbers of samples, and Gaussian noise. The readable twin: cregkit/oracle/noise.py
 *
 * Uniform    k / 2^53 with 53 bits k of two words
 * Normal     Box and Muller (1958), "A Note on the Generation of Random Normal Deviates", of two words:
 *            r = sqrt(-2 ln u),  z = r sin(pi t / 2) and +-r cos(pi t / 2); the sign is the second word's lowest bit
 *            u = (k + 1/2) / 2^31,  t = 2 k / 2^31 - 1,  rounded to float32; k: the upper 31 bits of a word
 * Saved      nothing: a sample's numbers are functions of the seed, its index in the data set and their position
 * Numerics   Only + - * / and sqrt. For u = m 2^e, ln u is e ln 2 + 2 artanh((m - 1) / (m + 1)), whose odd powers after
 *            the first are a minimax polynomial, and so are sine and cosine, the latter as (1 - t^2) times one, which
 *            makes its zero exact. |z| is at most 6.66.
 * Layout     Philox's counter holds the sample's index above the position. Element 16 j + k of a group of 64 has
 * counter 16 group + k: words 0 and 1 give j = 0 (sine) and 1 (cosine), words 2 and 3 give j = 2 and 3.
 */
#ifndef CREG_NOISE_H
#define CREG_NOISE_H

#include "philox.h"
#include "safety.h"
#include "stores.h"

enum { NOISE_GROUP = CREG_NOISE_GROUP, NOISE_COUNTERS = 16 };

static uint64_t creg_derived_seed(uint64_t seed, uint64_t n)
{
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t word[4];
    philox(n, PHILOX_SEEDS, key, word);
    return (uint64_t)word[1] << 32 | word[0];
}

/* Numbers 0 .. n - 1 of a sample, each in [0, 1). */
static void uniform_numbers(double *u, uint32_t index, ptrdiff_t n, const uint32_t key[2])
{
    uint32_t word[4] = {0};
    for (ptrdiff_t i = 0; i < n; i++) {
        if (i % 2 == 0) philox((uint64_t)index << 32 | (uint64_t)(i / 2), PHILOX_SAMPLES, key, word);
        const uint32_t *two = word + 2 * (i % 2);
        u[i] = (double)((uint64_t)two[0] << 21 | two[1] >> 11) * 0x1p-53;
    }
}

static void creg_sample_uniform(void *noise, ptrdiff_t task)
{
    const creg_noise *a = noise;
    const ptrdiff_t end = min_size((task + 1) * a->block, a->samples);
    for (ptrdiff_t i = task * a->block; i < end; i++)
        uniform_numbers(a->uniform + i * a->size, (uint32_t)a->index[i], a->size, a->key);
}

/* The polynomial of q with these coefficients, the highest power first. */
CREG_INLINE vf polynomial(vf q, const float *coefficients, int n)
{
    vf p = v_set1(coefficients[0]);
    for (int i = 1; i < n; i++) p = v_add(v_mul(p, q), v_set1(coefficients[i]));
    return p;
}

/* sqrt(-2 ln((k + 1/2) / 2^31)). */
CREG_INLINE vf normal_radius(vu words)
{
    const vf u = v_mul(v_add(v_upper_bits(words), v_set1(0.5f)), v_set1(0x1p-31f)), one = v_set1(1.0f);
    vf e;
    const vf m = v_split(u, &e);
    const vf s = v_div(v_sub(m, one), v_add(m, one)), q = v_mul(s, s);
    static const float artanh[] = {0.295842975f, 0.399886698f, 0.666666865f, 2.0f};
    const vf logarithm = v_add(v_mul(e, v_set1(0.693147181f)), v_mul(s, polynomial(q, artanh, 4)));
    return v_sqrt(v_mul(v_set1(-2.0f), logarithm));
}

CREG_INLINE void normal_pair(vu radius, vu angle, vf z[2])
{
    static const float sine[] = {0.000151678527f, -0.00467415759f, 0.0796899274f, -0.645963788f, 1.57079637f};
    static const float cosine[] = {2.36013275e-05f, -0.00089353678f, 0.0199686065f, -0.233700514f, 1.0f};
    const vf one = v_set1(1.0f), r = normal_radius(radius);
    const vf t = v_sub(v_mul(v_upper_bits(angle), v_set1(0x1p-30f)), one), q = v_mul(t, t);
    z[0] = v_mul(r, v_mul(t, polynomial(q, sine, 5)));
    z[1] = v_odd_negated(v_mul(r, v_mul(v_sub(one, q), polynomial(q, cosine, 5))), angle);
}

/* A whole group of a sample: y = x + sigma * z. */
CREG_INLINE void noise_group(const float *x, float *y, uint64_t counter, float sigma, const philox_keys *keys)
{
    for (int k = 0; k < NOISE_COUNTERS; k += CREG_W) {
        vu words[1][4];
        philox_vectors(counter + (uint64_t)k, 1, keys, words);
        for (int pair = 0; pair < 2; pair++) {
            vf z[2];
            normal_pair(words[0][2 * pair], words[0][2 * pair + 1], z);
            for (int h = 0; h < 2; h++) {
                const int e = (2 * pair + h) * NOISE_COUNTERS + k;
                v_store(y + e, v_add(v_load(x + e), v_mul(v_set1(sigma), z[h])));
            }
        }
    }
}

/* Elements [first, first + n) of sample i, first a multiple of NOISE_GROUP. */
static void add_noise(const creg_noise *a, ptrdiff_t i, ptrdiff_t first, ptrdiff_t n)
{
    philox_keys keys;
    philox_set_keys(&keys, a->key);
    const float *x = a->x + i * a->size + first, sigma = a->sigma[i];
    float *y = a->y + i * a->size + first, whole[NOISE_GROUP] = {0};
    uint64_t counter = (uint64_t)a->index[i] << 32 | (uint64_t)(first / NOISE_GROUP * NOISE_COUNTERS);
    ptrdiff_t j = 0;
    for (; j + NOISE_GROUP <= n; j += NOISE_GROUP, counter += NOISE_COUNTERS) /* main loop */
        noise_group(x + j, y + j, counter, sigma, &keys);
    if (j == n) return;
    memcpy(whole, x + j, sizeof(float) * (size_t)(n - j)); /* tail */
    noise_group(whole, whole, counter, sigma, &keys);
    memcpy(y + j, whole, sizeof(float) * (size_t)(n - j));
}

static void creg_gaussian_noise(void *noise, ptrdiff_t task)
{
    const creg_noise *a = noise;
    const ptrdiff_t i = task / a->pieces, first = task % a->pieces * a->block, at = i * a->size + first;
    const ptrdiff_t n = min_size(a->block, a->size - first);
    if (a->sigma[i] != 0.0f)
        add_noise(a, i, first, n);
    else if (a->x != a->y)
        memcpy(a->y + at, a->x + at, sizeof(float) * (size_t)n);
}

#endif
