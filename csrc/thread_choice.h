/* The number of threads of a parallel loop, chosen call by call. Results do not depend on it.
 *
 * A loop ends when its last thread is done. On a busy machine the system may have stopped that thread for a time slice:
 * milliseconds, for a loop of microseconds. So every call on several threads is judged: the tasks that the caller ran
 * tell what half as many threads would have taken, and the difference is a gain or a loss. Losses that gains do not
 * cover halve the number of threads for a pause. Then it is doubled again, as a trial. A loss soon after the last one
 * makes the pause four times as long.
 *
 * Pauses are measured in work: the time spent in calls on fewer threads. A trial therefore costs a small share of the
 * work even where calls are rare. The first call after a gap may have to wake threads, which can take milliseconds too.
 * That loss is no reason for a pause unless the next gap comes before gains have made up for it.
 *
 * Times are nanoseconds. Threads may choose and note at the same time: a lost update shifts a decision, no more.
 */
#ifndef CREG_THREAD_CHOICE_H
#define CREG_THREAD_CHOICE_H

#include <stdint.h>

enum {
    CREG_MAX_THREADS = 4096,
    CREG_GAP = 1000000,              /* threads that had no work for so long may sleep */
    CREG_PATIENCE = 100000,          /* losses up to this, or up to the time of a call, are borne */
    CREG_FIRST_PAUSE = 8,            /* in calls like the one that lost */
    CREG_LONGEST_PAUSE = 1000000000, /* so that two calls of 10 ms, which may be lost at its end, are 2 % of it */
    CREG_SOON = 100000000            /* work between losses that have one cause: some time slices of the system */
};

typedef struct {
    _Atomic int64_t allowed; /* threads */
    _Atomic int64_t credit;  /* gains less losses, at most a call's patience */
    _Atomic int64_t owed;    /* what waking the threads lost and their work has not made up for */
    _Atomic int64_t pause;   /* the length of the last one */
    _Atomic int64_t left;    /* of it */
    _Atomic int64_t calm;    /* work on several threads since it ended */
    _Atomic int64_t ended;   /* when the last call on several threads did */
    /* For show_config(): calls that were worth several threads, and those of them that took fewer. */
    _Atomic int64_t calls, fewer;
    /* The call that began the last pause: its threads, its time, and the time on half as many. */
    _Atomic int64_t used, took, half;
} creg_choice;

/* A call on several threads. */
typedef struct {
    int used;
    int64_t tasks, first_tasks, own_tasks;        /* all, those that the caller took first, and all that it ran */
    int64_t began, first_ended, own_ended, ended; /* when it began, had run these, and could go on */
} creg_call;

static inline int creg_choose_threads(creg_choice *c, int wanted)
{
    const int64_t allowed = c->allowed;
    c->calls++;
    if (wanted <= allowed) return wanted;
    c->fewer++;
    return (int)allowed;
}

/* After a call on fewer threads than were wanted, which took so long. */
static inline void creg_note_fewer(creg_choice *c, int64_t took)
{
    if ((c->left -= took) > 0) return;
    c->allowed = c->allowed * 2;
    c->left = c->pause;
}

static inline void creg_pause(creg_choice *c, const creg_call *call, int64_t half)
{
    const int64_t first = CREG_FIRST_PAUSE * half;
    int64_t pause = c->calm < CREG_SOON ? 4 * c->pause : 0;
    if (pause > CREG_LONGEST_PAUSE) pause = CREG_LONGEST_PAUSE;
    if (pause < first) pause = first;
    c->pause = c->left = pause;
    c->calm = c->owed = 0;
    c->credit = CREG_PATIENCE;
    c->allowed = call->used / 2;
    c->used = call->used;
    c->took = call->ended - call->began;
    c->half = half;
}

/* What all tasks would have taken on one thread: the caller may have been stopped in its first tasks or in the others,
 * so that the shorter time of a task counts. */
static inline double creg_serial_time(const creg_call *call)
{
    const int64_t others = call->own_tasks - call->first_tasks;
    const double first = call->first_tasks ? (double)(call->first_ended - call->began) / (double)call->first_tasks : 0;
    const double other = others ? (double)(call->own_ended - call->first_ended) / (double)others : first;
    return (first < other ? first : other) * (double)call->tasks;
}

/* After a call on several threads. */
static inline void creg_note_call(creg_choice *c, const creg_call *call)
{
    const int64_t took = call->ended - call->began;
    const int64_t half = (int64_t)(creg_serial_time(call) * 2 / call->used);
    const int64_t gain = half - took, patience = half > CREG_PATIENCE ? half : CREG_PATIENCE;
    const int after_gap = call->began - c->ended > CREG_GAP;
    int lost;
    if (after_gap) {
        lost = c->owed > 0;
        c->owed = gain < 0 ? -gain : 0;
    } else {
        c->owed -= gain;
        c->credit = c->credit + gain < patience ? c->credit + gain : patience;
        lost = c->credit < 0;
    }
    c->calm += took;
    c->ended = call->ended;
    if (lost && c->allowed >= call->used) creg_pause(c, call, half);
}

#endif
