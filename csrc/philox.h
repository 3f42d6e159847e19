/* Philox4x32-10 (Salmon, Moraes, Dror and Shaw, 2011, "Parallel random numbers: as easy as 1, 2, 3"), a counter-based
 * generator: ten rounds of two 32x32->64 bit products turn (counter, key) into four random words. There is no state:
 * each word can be computed alone. The readable twin: cregkit/oracle/philox.py
 *
 * Layout     a counter's words:
 *   words 0, 1   low and high half of a 64-bit number n
 *   word  2      PHILOX_DRAWS: n = 16 * block + lane, the state from which a lane starts a block of draws (draws.h)
 *                PHILOX_TIES: n = element; word 0 of the result decides a tie
 *                PHILOX_SEEDS: words 0 and 1 of the result are the n-th seed derived from the key
 *                PHILOX_SAMPLES: n = 2^32 * sample + k, two uniform numbers of that sample. Its noise is PHILOX_DRAWS
 *                with the same n and a derived seed as key.
 *   word  3      0
 *   key          low and high half of the seed
 */
#ifndef CREG_PHILOX_H
#define CREG_PHILOX_H

enum { PHILOX_ROUNDS = 10, PHILOX_MOST_VECTORS = 16 / CREG_W };
enum { PHILOX_DRAWS = 0, PHILOX_TIES = 1, PHILOX_SEEDS = 2, PHILOX_SAMPLES = 3 };
static const uint32_t PHILOX_M0 = 0xD2511F53u, PHILOX_M1 = 0xCD9E8D57u; /* multipliers */
static const uint32_t PHILOX_W0 = 0x9E3779B9u, PHILOX_W1 = 0xBB67AE85u; /* key increments */

/* One counter. */
CREG_INLINE void philox(uint64_t n, uint32_t stream, const uint32_t key[2], uint32_t word[4])
{
    uint32_t k0 = key[0], k1 = key[1], c[4] = {(uint32_t)n, (uint32_t)(n >> 32), stream, 0};
    for (int r = 0; r < PHILOX_ROUNDS; r++, k0 += PHILOX_W0, k1 += PHILOX_W1) {
        const uint64_t p0 = (uint64_t)PHILOX_M0 * c[0], p1 = (uint64_t)PHILOX_M1 * c[2];
        c[0] = (uint32_t)(p1 >> 32) ^ c[1] ^ k0;
        c[1] = (uint32_t)p1;
        c[2] = (uint32_t)(p0 >> 32) ^ c[3] ^ k1;
        c[3] = (uint32_t)p0;
    }
    memcpy(word, c, sizeof c);
}

/* Each round's key in every lane. */
typedef struct {
    vu k0[PHILOX_ROUNDS], k1[PHILOX_ROUNDS];
    uint32_t key[2];
} philox_keys;

/* Not a return value: GCC would clear and copy it. */
CREG_INLINE void philox_set_keys(philox_keys *keys, const uint32_t key[2])
{
    keys->key[0] = key[0];
    keys->key[1] = key[1];
    for (uint32_t r = 0; r < PHILOX_ROUNDS; r++) {
        keys->k0[r] = vu_set1(key[0] + r * PHILOX_W0);
        keys->k1[r] = vu_set1(key[1] + r * PHILOX_W1);
    }
}

/* The first two rounds of counters n (one in the low half of each lane) with the high word `high`. The counters differ
 * in word 0 alone, so they share half of the products of these rounds. */
CREG_INLINE void philox_first_rounds(vu n, uint32_t high, const philox_keys *keys, vu c[4])
{
    const uint64_t p1 = (uint64_t)PHILOX_M1 * PHILOX_DRAWS;
    const uint64_t q0 = (uint64_t)PHILOX_M0 * ((uint32_t)(p1 >> 32) ^ high ^ keys->key[0]);
    const vu p0 = vu_mul32(n, PHILOX_M0);
    const vu q1 = vu_mul32(vu_high_xor(p0, vu_set1(0), keys->k1[0]), PHILOX_M1);
    c[0] = vu_high_xor(q1, vu_set1((uint32_t)p1), keys->k0[1]);
    c[1] = q1;
    c[2] = p0 ^ vu_set1((uint32_t)(q0 >> 32) ^ (keys->key[1] + PHILOX_W1));
    c[3] = vu_set1((uint32_t)q0);
}

CREG_INLINE void philox_round(vu c[4], vu k0, vu k1)
{
    const vu p0 = vu_mul32(c[0], PHILOX_M0), p1 = vu_mul32(c[2], PHILOX_M1);
    c[0] = vu_high_xor(p1, c[1], k0);
    c[2] = vu_high_xor(p0, c[3], k1);
    c[1] = p1;
    c[3] = p0;
}

/* `vectors` times CREG_W counters from n = first on, none of which carries into the high half. Rounds of several
 * vectors are interleaved to hide the latency of the multiplications. words[i][j] receives word j of vector i, in
 * order. Even and odd counters are in separate vectors, in the low halves of 64-bit lanes, where the halves of a
 * product need no permutation. */
CREG_INLINE void philox_vectors(uint64_t first, int vectors, const philox_keys *keys, vu words[][4])
{
    vu c[2 * PHILOX_MOST_VECTORS][4];
    for (int i = 0; i < vectors; i++) {
        const uint64_t at = first + (uint64_t)(i * CREG_W);
        const vu n = vu_even_counters(at);
        philox_first_rounds(n, (uint32_t)(at >> 32), keys, c[2 * i]);
        philox_first_rounds(n + 1, (uint32_t)(at >> 32), keys, c[2 * i + 1]);
    }
    for (int r = 2; r < PHILOX_ROUNDS; r++)
        for (int i = 0; i < 2 * vectors; i++) philox_round(c[i], keys->k0[r], keys->k1[r]);
    for (int i = 0; i < vectors; i++)
        for (int j = 0; j < 4; j++) words[i][j] = vu_interleave(c[2 * i][j], c[2 * i + 1][j]);
}

#endif
