/* The number of threads of a parallel loop, chosen loop by loop. Results do not depend on it.
 *
 * Problem    A loop ends when its last thread is done. On a busy machine the system may have stopped that thread for a
 *            time slice: milliseconds, for a loop of microseconds.
 * Policy     The time of a loop's tasks tells what half as many threads would have taken: a gain or a loss. Losses that
 *            gains do not cover halve the threads for a pause, then they are doubled as a trial. A trial that loses
 *            more than it gains makes the next pause four times as long.
 * Sizes      Loops of each size (power of two of elements) are judged apart: a time slice is much longer than a small
 *            loop and much shorter than a large one. Pauses are measured in work, the time spent in loops on fewer
 *            threads, so a trial costs a small share of it even where loops are rare.
 * Wake-ups   The first loop after a gap may have to wake or create threads. That loss is a debt: a pause begins only if
 *            gains have not paid it back by the next gap.
 */
#ifndef CREG_THREAD_CHOICE_H
#define CREG_THREAD_CHOICE_H

#include <stdint.h>

/* Times are in nanoseconds. Several threads may choose and note at once: a lost update only delays a decision. */

enum {
    CREG_MAX_THREADS = 4096,
    /* Threads without work for this long may sleep. */
    CREG_GAP = 1000000,
    /* Losses up to this, or up to the time of a loop, are tolerated. */
    CREG_PATIENCE = 100000,
    /* The first pause is as long as this many loops like the one that lost. */
    CREG_FIRST_PAUSE = 8,
    /* The two loops of 10 ms that a trial may lose are 2 % of the longest pause. */
    CREG_LONGEST_PAUSE = 1000000000,
    CREG_SIZES = 64
};

/* The state of the loops of one size. */
typedef struct {
    _Atomic int64_t reduced; /* the largest number of threads allowed; 0: no limit */
    _Atomic int64_t credit;  /* gains less losses, at most a loop's patience */
    _Atomic int64_t owed;    /* time lost by waking threads, less the gains since then */
    _Atomic int64_t pause;   /* length of the last pause */
    _Atomic int64_t left;    /* remaining time of the pause */
    _Atomic int64_t gained;  /* gains less losses since the number of threads changed */
} creg_size;

typedef struct {
    creg_size sizes[CREG_SIZES];
    _Atomic int64_t ended, threads;   /* end and thread count of the last loop on several threads */
    _Atomic int64_t loops, fewer;     /* loops worth several threads, and how many of them used fewer than wanted */
    _Atomic int64_t used, took, half; /* the loop that began the last pause, and its time on half as many threads */
    _Atomic int64_t debt;             /* the time lost by waking threads that began the last pause; 0: a single loop */
} creg_choice;

/* A loop on several threads, and the time that all its tasks would have taken on one. */
typedef struct {
    int used;
    int64_t elements, serial, began, ended;
} creg_loop;

static inline creg_size *creg_size_of(creg_choice *choice, int64_t elements)
{
    return &choice->sizes[63 - __builtin_clzll((uint64_t)elements | 1)];
}

/* Lets all loops use all threads until they lose time again. */
static inline void creg_forget_losses(creg_choice *choice)
{
    for (int i = 0; i < CREG_SIZES; i++) {
        creg_size *size = &choice->sizes[i];
        size->reduced = size->credit = size->owed = size->pause = size->left = size->gained = 0;
    }
}

static inline int creg_choose_threads(creg_choice *choice, int64_t elements, int wanted)
{
    const int64_t reduced = creg_size_of(choice, elements)->reduced;
    choice->loops++;
    if (!reduced || reduced >= wanted) return wanted;
    choice->fewer++;
    return (int)reduced;
}

/* Call after a loop on fewer threads than wanted, with the time it took. */
static inline void creg_note_fewer(creg_choice *choice, int64_t elements, int64_t took)
{
    creg_size *size = creg_size_of(choice, elements);
    size->left -= took; /* in a statement of its own: Clang 14 takes the value of such an expression for atomic */
    if (size->left > 0) return;
    const int64_t reduced = size->reduced;
    size->reduced = reduced < CREG_MAX_THREADS ? 2 * reduced : 0;
    size->left = size->pause;
    size->gained = 0;
}

static inline void creg_pause(creg_choice *choice, const creg_loop *loop, int64_t half, int64_t debt)
{
    creg_size *size = creg_size_of(choice, loop->elements);
    const int64_t first = CREG_FIRST_PAUSE * half;
    int64_t pause = size->gained < 0 ? 4 * size->pause : 0;
    if (pause > CREG_LONGEST_PAUSE) pause = CREG_LONGEST_PAUSE;
    if (pause < first) pause = first;
    if (pause < CREG_PATIENCE) pause = CREG_PATIENCE;
    size->pause = size->left = pause;
    size->gained = size->owed = 0;
    size->credit = CREG_PATIENCE;
    size->reduced = loop->used / 2;
    choice->used = loop->used;
    choice->took = loop->ended - loop->began;
    choice->half = half;
    choice->debt = debt;
}

/* Call after a loop on several threads. */
static inline void creg_note_loop(creg_choice *choice, const creg_loop *loop)
{
    creg_size *size = creg_size_of(choice, loop->elements);
    const int64_t half = 2 * loop->serial / loop->used, gain = half - (loop->ended - loop->began);
    const int64_t patience = half > CREG_PATIENCE ? half : CREG_PATIENCE;
    const int wakes = loop->began - choice->ended > CREG_GAP || loop->used > choice->threads;
    const int64_t owed = size->owed, unpaid = owed > gain ? owed - gain : 0, credit = size->credit + gain;
    const int lost = wakes ? owed > patience : credit < 0;
    if (wakes || gain > 0) size->owed = unpaid;
    if (!wakes) size->credit = credit < patience ? credit : patience;
    size->gained += gain;
    choice->ended = loop->ended;
    choice->threads = loop->used;
    if (lost && (!size->reduced || size->reduced >= loop->used)) creg_pause(choice, loop, half, wakes ? owed : 0);
}

#endif
