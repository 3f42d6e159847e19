/* csrc/thread_choice.h as a library for tests/test_thread_choice.py, and as a program for ThreadSanitizer: many threads
 * choose and note at once. */
#include "thread_choice.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

static creg_choice choice;

void reset(void)
{
    memset(&choice, 0, sizeof choice);
    choice.allowed = CREG_MAX_THREADS;
}

int choose(int wanted) { return creg_choose_threads(&choice, wanted); }
void note_fewer(int64_t took) { creg_note_fewer(&choice, took); }
void note_call(const creg_call *call) { creg_note_call(&choice, call); }
int64_t calls(void) { return choice.calls; }
int64_t fewer(void) { return choice.fewer; }

enum { THREADS = 8, CALLS = 100000 };

static void *use(void *argument)
{
    const int64_t wanted = 2 + (int64_t)argument % 3;
    for (int64_t i = 0; i < CALLS; i++) {
        const int used = choose((int)wanted);
        const int64_t began = 1000000 * i, ended = began + (i % 100 ? 20000 : 4000000);
        if (used < 1 || used > wanted) return argument;
        const creg_call call = {used, 64, 8, 16, began, began + 5000, began + 10000, ended};
        if (used > 1) note_call(&call);
        if (used < wanted) note_fewer(ended - began);
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
    printf("%lld calls, %lld on fewer threads\n", (long long)calls(), (long long)fewer());
    return wrong != NULL || calls() != (int64_t)THREADS * CALLS;
}
