/* csrc/thread_choice.h as a library for tests/ops/test_thread_choice.py, and as a program for ThreadSanitizer: many
 * threads choose and record at the same time. */
#include "thread_choice.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

static creg_choice choice;

void reset(void) { memset(&choice, 0, sizeof choice); }

int choose(int64_t elements, int wanted) { return creg_choose_threads(&choice, elements, wanted); }
void note_fewer(int64_t elements, int64_t took) { creg_note_fewer(&choice, elements, took); }
void note_loop(const creg_loop *loop) { creg_note_loop(&choice, loop); }
void forget_losses(void) { creg_forget_losses(&choice); }
int64_t loops(void) { return choice.loops; }
int64_t fewer(void) { return choice.fewer; }

enum { THREADS = 8, LOOPS = 100000 };

static void *use(void *argument)
{
    const int64_t wanted = 2 + (int64_t)argument % 3;
    for (int64_t i = 0; i < LOOPS; i++) {
        const int used = choose(wanted << 16, (int)wanted);
        const int64_t began = 1000000 * i, ended = began + (i % 100 ? 20000 : 4000000);
        if (used < 1 || used > wanted) return argument;
        const creg_loop loop = {used, wanted << 16, 50000, began, ended};
        if (used > 1) note_loop(&loop);
        if (used < wanted) note_fewer(wanted << 16, ended - began);
        if (i % 1000 == 999) forget_losses();
    }
    return NULL;
}

int main(void)
{
    pthread_t threads[THREADS];
    void *wrong = NULL, *result;
    reset();
    for (int64_t i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, use, (void *)(i + 1));
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], &result);
        if (result) wrong = result;
    }
    printf("%lld loops, %lld on fewer threads\n", (long long)loops(), (long long)fewer());
    return wrong != NULL || loops() != (int64_t)THREADS * LOOPS;
}
