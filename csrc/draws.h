/* Dropout's random bits: a draw of 16 bits for each element of the stream of a seed, from JSF32 (Jenkins, 2007, "A
 * small noncryptographic PRNG"), whose states are drawn anew for each block by Philox4x32-10. So any block can be
 * computed alone, and there are no multiplications within it. The readable twin: cregkit/oracle/draws.py
 *
 * Block      4096 draws. Lane l < 16 of block n starts with (a, b, c, d) = the words of counter 16 n + l, PHILOX_DRAWS
 * Step       e = a - rotl(b, 27), a = b ^ rotl(c, 17), b = c + d, c = d + e, d = e + a in each lane; d is its word
 * Layout     A step gives 32 draws: the low halves of the lanes' words, then the high halves. Draws are signed, because
 *            every instruction set compares signed numbers. Within a block, the state passes from step to step; a start
 *            inside a block costs the steps before it.
 */
#ifndef CREG_DRAWS_H
#define CREG_DRAWS_H

#include "philox.h"
#include "reduce.h"

enum {
    DRAW_VECS = PHILOX_MOST_VECTORS,
    DRAW_LANES = DRAW_VECS * CREG_W,
    /* The draws of a step. */
    STEP = 2 * DRAW_LANES,
    BLOCK_STEPS = CREG_DRAWS_BLOCK / STEP
};

/* The state of all lanes. d holds the words of the last step. */
typedef struct {
    v_words a[DRAW_VECS], b[DRAW_VECS], c[DRAW_VECS], d[DRAW_VECS];
} draw_state;

/* A position in the stream: the number of the next step, and the state before it, that after the last one. */
typedef struct {
    uint32_t key[2];
    uint64_t step;
    draw_state state;
} draws;

CREG_INLINE void start_draws(draws *random, const uint32_t key[2])
{
    random->key[0] = key[0], random->key[1] = key[1];
    random->step = UINT64_MAX; /* none */
}

CREG_INLINE void next_step(draw_state *s)
{
    for (int k = 0; k < DRAW_VECS; k++) {
        const v_words e = s->a[k] - v_rotated(s->b[k], 27);
        s->a[k] = s->b[k] ^ v_rotated(s->c[k], 17);
        s->b[k] = s->c[k] + s->d[k];
        s->c[k] = s->d[k] + e;
        s->d[k] = e + s->a[k];
    }
}

/* Sets the state before a step: that before its block's first step, then the steps up to it. */
static CREG_NOINLINE void go_to_step(draws *random, uint64_t step)
{
    philox_keys keys;
    vu words[DRAW_VECS][4];
    philox_set_keys(&keys, random->key);
    philox_vectors(step / BLOCK_STEPS * DRAW_LANES, DRAW_VECS, &keys, words);
    for (int k = 0; k < DRAW_VECS; k++) {
        random->state.a[k] = (v_words)words[k][0], random->state.b[k] = (v_words)words[k][1];
        random->state.c[k] = (v_words)words[k][2], random->state.d[k] = (v_words)words[k][3];
    }
    for (uint64_t i = 0; i < step % BLOCK_STEPS; i++) next_step(&random->state);
    random->step = step;
}

/* Makes `step` the next step. A block's first step does not follow from the state before it. */
CREG_INLINE void prepare_step(draws *random, uint64_t step)
{
    if (random->step != step || step % BLOCK_STEPS == 0) go_to_step(random, step);
}

/* Makes `step` the next step. Returns how many of `steps` steps from there on lie in its block. */
CREG_INLINE int prepare_steps(draws *random, uint64_t step, ptrdiff_t steps)
{
    prepare_step(random, step);
    return (int)min_size(steps, BLOCK_STEPS - (ptrdiff_t)(step % BLOCK_STEPS));
}

/* Makes `step` the last step. */
CREG_INLINE void draw_step(draws *random, uint64_t step)
{
    if (random->step == step + 1) return;
    prepare_step(random, step);
    next_step(&random->state);
    random->step = step + 1;
}

/* The draws of the last step. */
CREG_INLINE void store_draws(const draw_state *s, int16_t to[STEP])
{
    uint32_t words[DRAW_LANES];
    memcpy(words, s->d, sizeof words);
    for (int i = 0; i < DRAW_LANES; i++) to[i] = (int16_t)words[i], to[DRAW_LANES + i] = (int16_t)(words[i] >> 16);
}

#endif
