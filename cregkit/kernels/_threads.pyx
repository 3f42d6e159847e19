# The number of threads of a call, and the parallel loop that runs the tasks of an op.
import operator
from contextlib import ContextDecorator
from contextvars import ContextVar
from functools import wraps
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction

from cregkit._fork import is_forked
from cregkit.kernels import _openmp
from cregkit.kernels._cpu import available_cpus

cimport numpy as cnp
from cpython.contextvars cimport PyContextVar_Set, get_value
from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint64_t, uintptr_t

cnp.import_array()


cdef extern from "float_mode.h" nogil:
    uint64_t creg_float_mode_enter()
    void creg_float_mode_leave(uint64_t mode)


cdef extern from "thread_choice.h" nogil:
    const int CREG_SIZES
    ctypedef struct creg_size:
        int64_t reduced
    ctypedef struct creg_choice:
        creg_size *sizes  # an array of CREG_SIZES
        int64_t loops, fewer, used, took, half, debt
    ctypedef struct creg_loop:
        int used
        int64_t elements, serial, began, ended
    void creg_forget_losses(creg_choice *choice)
    int creg_choose_threads(creg_choice *choice, int64_t elements, int wanted)
    void creg_note_fewer(creg_choice *choice, int64_t elements, int64_t took)
    void creg_note_loop(creg_choice *choice, const creg_loop *loop)


cdef extern from * nogil:
    """
    #include "platform.h"
    /* The limit (0: none) that a thread's last large call found in its context, and whether loops must use all threads.
     */
    static _Thread_local int creg_thread_limit = 0, creg_exact = 0;

    /* The limit (0: none) of this thread's calls from C++. */
    static _Thread_local int creg_call_limit = 0;

    /* Whether this process was forked. OpenMP's threads do not survive a fork, and a parallel loop in the child would
     * wait for them forever. */
    static int creg_forked = 0;
    static void creg_note_fork(void) { creg_forked = 1; }
    static void creg_watch_forks(void) { creg_at_fork(NULL, NULL, creg_note_fork); }

    static creg_choice creg_threads;

    static inline int64_t creg_load(const int64_t *shared) { return __atomic_load_n(shared, __ATOMIC_RELAXED); }
    static inline int64_t creg_add(int64_t *shared, int64_t some)
    {
        return __atomic_fetch_add(shared, some, __ATOMIC_RELAXED);
    }
    """
    int creg_thread_limit
    int creg_call_limit
    int creg_exact
    int creg_forked
    void creg_watch_forks()
    creg_choice creg_threads
    int64_t creg_load(const int64_t *shared)
    int64_t creg_add(int64_t *shared, int64_t some)
    int64_t creg_nanoseconds()


creg_watch_forks()
creg_forked = is_forked()

cdef enum:
    # A loop uses one more thread for each this many elements (csrc/TUNING.md).
    ELEMENTS_PER_THREAD = 32 * 1024

# ---- the number of threads ----

cdef int default_threads = 1
cdef str threads_from = ""


default_threads, threads_from = available_cpus()

# ---- the OpenMP runtime ----

ctypedef void (*each_thread)(void *argument) noexcept nogil
ctypedef void (*gomp_parallel)(each_thread function, void *argument, unsigned n_threads, unsigned flags) noexcept nogil
ctypedef int (*omp_get_thread_num)() noexcept nogil

# The functions of a runtime that the loops call.
cdef struct Runtime:
    gomp_parallel parallel
    omp_get_thread_num thread_num


cdef enum:
    MAX_RUNTIMES = 16

# Each choice has its own record: a loop may still run with an earlier one.
cdef Runtime runtimes[MAX_RUNTIMES]
cdef int n_runtimes = 0
cdef const Runtime *runtime = NULL
cdef bint runtime_chosen = False
runtime_path = None


def choose_runtime():
    """Choose the runtime of all later loops.

    The first loop on several threads does so, when a program has imported the libraries that bring a runtime, and
    the import of cregkit.torch does it again.
    """
    global runtime, runtime_path, runtime_chosen, n_runtimes
    found = _openmp.find_runtime()
    if found is not None and found.path != runtime_path and n_runtimes < MAX_RUNTIMES:
        runtimes[n_runtimes].parallel = <gomp_parallel> <uintptr_t> found.parallel
        runtimes[n_runtimes].thread_num = <omp_get_thread_num> <uintptr_t> found.thread_num
        runtime, runtime_path = &runtimes[n_runtimes], found.path
        n_runtimes += 1
    runtime_chosen = True  # last: other threads may be in loops


cdef void choose_runtime_once() noexcept with gil:
    if not runtime_chosen:
        choose_runtime()


def openmp_runtime():
    """Return the file of the OpenMP runtime, None without one."""
    choose_runtime_once()
    return runtime_path


cdef int checked_threads(object n) except -1:
    try:
        count = operator.index(n)
    except TypeError:
        raise TypeError(f"n must be a whole number of threads, got {type(n).__name__} {n!r:.60}") from None
    if not 1 <= count <= 4096:
        raise ValueError(f"n must be a number of threads from 1 to 4096, got {count}")
    return count


def set_num_threads(n):
    """Let all calls of the process use up to ``n`` threads (1 to 4096). Results do not depend on it.

    Where other processes keep the CPUs busy, or waking threads costs more than they gain, calls use fewer:
    ``show_config()["thread_choice"]`` reports it. Each ``set_num_threads`` forgets earlier losses of time. A forked
    child computes on one thread regardless.

    Examples
    --------
    >>> import cregkit as ck
    >>> before = ck.get_num_threads()
    >>> ck.set_num_threads(1)
    >>> ck.get_num_threads()
    1
    >>> ck.set_num_threads(before)
    """
    global default_threads, threads_from
    default_threads = checked_threads(n)
    threads_from = "set_num_threads"
    creg_forget_losses(&creg_threads)


def get_num_threads():
    """Return the largest number of threads that a call in this context uses.

    Examples
    --------
    >>> import cregkit as ck
    >>> with ck.num_threads(1):
    ...     print(ck.get_num_threads())
    1
    """
    choose_runtime_once()
    find_limit()
    return thread_limit()


def threads_origin():
    """Return what set the number of threads that get_num_threads() returns."""
    if creg_forked:
        return "forked process: OpenMP threads do not survive a fork"
    if openmp_runtime() is None:
        return "no OpenMP runtime was found"
    find_limit()
    return "num_threads block" if open_blocks > 0 and creg_thread_limit > 0 else threads_from


# A `with` block of num_threads.
cdef class Block:
    cdef int limit
    cdef bint exact, open


# The blocks entered in the current context, innermost last. A block may be left in a context other than the one it was
# entered in, or before a block within it, so any of them may be closed.
cdef object entered_blocks = ContextVar("cregkit_num_threads", default=())

open_blocks = 0


cdef tuple still_open():
    cdef tuple entered = get_value(entered_blocks)
    for block in entered:
        if not (<Block>block).open:
            return tuple([block for block in entered if (<Block>block).open])
    return entered


# Parallel loops run without the GIL, but reading a context needs the GIL, so calls do this first.
cdef int find_limit() except -1:
    global creg_thread_limit, creg_exact
    cdef tuple still
    cdef Block innermost
    if open_blocks > 0:
        still = still_open()
        creg_thread_limit = creg_exact = 0
        if still:
            innermost = still[len(still) - 1]
            creg_thread_limit, creg_exact = innermost.limit, innermost.exact
    return 0


class num_threads(ContextDecorator):
    """Context manager and decorator: calls within the block use up to ``n`` threads (1 to 4096).

    The innermost open block of the current context (:mod:`contextvars`) applies. Other threads and other asyncio tasks
    are not affected. Tasks and :func:`asyncio.to_thread` calls that the block starts are affected until it ends. A
    generator shares the context of its consumer: while it is suspended in a block, the block applies to the consumer.
    Several threads or tasks may enter one object, and its own block may enter it again.

    Results do not depend on the number of threads. A forked child computes on one thread regardless.

    Examples
    --------
    >>> import numpy as np
    >>> import cregkit as ck
    >>> with ck.num_threads(1):
    ...     y = ck.layer_norm(np.ones((2, 8), np.float32))
    """

    _exact = False

    def __init__(self, n):
        self._n = checked_threads(n)
        self._blocks = []

    def __call__(self, function):
        """Decorate a function or a coroutine function: the block lasts as long as a call."""
        if isgeneratorfunction(function) or isasyncgenfunction(function):
            raise TypeError(f"num_threads decorates functions and coroutine functions, got {function!r}, a generator "
                            f"function: write `with num_threads({self._n}):` into it")
        if not iscoroutinefunction(function):
            return super().__call__(function)

        @wraps(function)
        async def within(*arguments, **named):
            with self:
                return await function(*arguments, **named)

        return within

    def __enter__(self):
        global open_blocks
        cdef Block block = Block.__new__(Block)
        cdef tuple around = still_open()
        block.limit, block.open = self._n, True
        block.exact = self._exact or around and (<Block>around[len(around) - 1]).exact
        PyContextVar_Set(entered_blocks, (*around, block))
        self._blocks.append(block)
        open_blocks += 1
        return self

    def __exit__(self, *exception):
        """Close the block that this context entered last, or any other: the one of another thread or task."""
        global open_blocks
        if not self._blocks:
            raise RuntimeError(f"num_threads({self._n}) has no open block to leave: enter it first")
        cdef list blocks = self._blocks
        cdef Block block = blocks[len(blocks) - 1], own
        for own in reversed(still_open()):
            if own in blocks:
                block = own
                break
        blocks.remove(block)
        block.open = False
        find_limit()  # a call may go on here
        open_blocks -= 1
        PyContextVar_Set(entered_blocks, still_open())


class exact_threads(num_threads):
    """A num_threads block whose loops use all ``n`` threads, however busy the CPUs are: for tests and checks.

    The loops of a num_threads block within it use all threads of that block.
    """

    _exact = True


cdef int thread_limit() noexcept nogil:
    if creg_forked or (runtime_chosen and runtime == NULL):
        return 1
    if creg_call_limit > 0:
        return creg_call_limit
    return creg_thread_limit if open_blocks > 0 and creg_thread_limit > 0 else default_threads


cdef void limit_calls(int n) noexcept nogil:
    global creg_call_limit
    creg_call_limit = n


def thread_choice():
    """Return how many loops used fewer threads than wanted, why the last pause began, and the current limits."""
    find_limit()
    now = {1 << i: creg_threads.sizes[i].reduced for i in range(CREG_SIZES)}
    now = {elements: threads for elements, threads in now.items() if 0 < threads < thread_limit()}
    return {"loops": creg_threads.loops, "fewer": creg_threads.fewer, "because": _reason(), "now": now}


def _reason():
    if creg_threads.used == 0:
        return "none has lost time by waiting for a thread"
    took, half, debt = [f"{t / 1e6:.3g} ms" for t in (creg_threads.took, creg_threads.half, creg_threads.debt)]
    if creg_threads.debt > 0:
        return f"waking threads cost {debt} more than they gained"
    used = creg_threads.used
    return f"a loop on {used} threads took {took} where {used // 2} would have taken about {half}"


# ---- the parallel loop ----

cdef enum:
    MAX_SHARES = 64  # further threads help from the beginning


cdef void run_task(block_task task, void *args, ptrdiff_t i) noexcept nogil:
    cdef uint64_t mode = creg_float_mode_enter()
    task(args, i)
    creg_float_mode_leave(mode)


# Runs all tasks in this thread.
cdef void run_serially(block_task task, void *args, ptrdiff_t n_tasks, bint backwards) noexcept nogil:
    cdef uint64_t mode = creg_float_mode_enter()
    cdef ptrdiff_t k
    for k in range(n_tasks):
        task(args, n_tasks - 1 - k if backwards else k)
    creg_float_mode_leave(mode)


# A share, in a cache line of its own: the run of neighbouring tasks that one thread begins with, which keeps its memory
# accesses contiguous. A thread that finishes its share takes tasks of others, so that a thread which the system stops
# does not delay the loop. At each step a thread takes half of the tasks left in a share (csrc/TUNING.md).
#
# `ran` and `time`: the number and the duration of the tasks that the thread took first.
cdef struct Share:
    int64_t taken, first, count, ran, time
    int64_t apart[3]


# The state of a loop. Fields that all threads read come after the shares, which they write.
cdef struct Team:
    Share shares[MAX_SHARES]
    block_task task
    void *args
    bint backwards
    int n_shares
    const Runtime *runtime
    int64_t ran, time  # all tasks of the calling thread


cdef void share_out(Team *team, block_task task, void *args, int64_t n_tasks, int threads,
                    bint backwards) noexcept nogil:
    cdef int64_t n = min(threads, <int>MAX_SHARES), i
    team.task, team.args, team.backwards, team.n_shares, team.runtime = task, args, backwards, <int>n, runtime
    for i in range(n):
        team.shares[i].taken, team.shares[i].first, team.shares[i].ran = 0, n_tasks * i // n, 0
        team.shares[i].count = n_tasks * (i + 1) // n - team.shares[i].first


# Runs tasks until none is left, beginning with the thread's own share.
cdef void run_shares(Team *team, int thread) noexcept nogil:
    cdef uint64_t mode = creg_float_mode_enter()
    cdef Share *own = &team.shares[thread % team.n_shares]
    cdef Share *share
    cdef int64_t began = creg_nanoseconds(), k, wanted, some, done = 0
    cdef int i
    for i in range(team.n_shares):
        share = &team.shares[(thread + i) % team.n_shares]
        while True:
            wanted = max(<int64_t>1, (share.count - creg_load(&share.taken)) // 2)
            some = creg_add(&share.taken, wanted)
            if some >= share.count:
                break
            wanted = min(wanted, share.count - some)
            for k in range(some, some + wanted):
                team.task(team.args, share.first + (share.count - 1 - k if team.backwards else k))
            if done == 0 and thread < team.n_shares:
                own.ran, own.time = wanted, creg_nanoseconds() - began
            done += wanted
    creg_float_mode_leave(mode)
    if thread == 0:
        team.ran, team.time = done, creg_nanoseconds() - began


cdef void run_thread(void *team) noexcept nogil:
    run_shares(<Team *>team, (<Team *>team).runtime.thread_num())


# The time that all tasks would have taken on one thread. The system may have stopped the caller during its first tasks
# or during the others, so the shorter time per task counts. If the caller ran only its first tasks, those of the other
# threads are used as well.
cdef int64_t serial_time(const Team *team, int64_t n_tasks) noexcept nogil:
    cdef const Share *first = &team.shares[0]
    cdef double of_task = <double>first.time / first.ran if first.ran else INFINITY
    cdef int i
    if team.ran > first.ran:
        of_task = min(of_task, <double>(team.time - first.time) / (team.ran - first.ran))
    else:
        for i in range(1, team.n_shares):
            if team.shares[i].ran:
                of_task = min(of_task, <double>team.shares[i].time / team.shares[i].ran)
    return <int64_t>(of_task * n_tasks) if of_task < INFINITY else 0


cdef void run_tasks(block_task task, void *args, ptrdiff_t n_tasks, ptrdiff_t elements, bint backwards) noexcept nogil:
    cdef int wanted = <int>min(<ptrdiff_t>thread_limit(), min(n_tasks, elements // ELEMENTS_PER_THREAD))
    cdef bint exact = open_blocks > 0 and creg_exact
    cdef Team team
    cdef creg_loop loop
    if wanted > 1 and not runtime_chosen:
        choose_runtime_once()
    if wanted <= 1 or runtime == NULL:
        run_serially(task, args, n_tasks, backwards)
        return
    loop.used = wanted if exact else creg_choose_threads(&creg_threads, elements, wanted)
    loop.elements = elements
    if loop.used == 1:
        loop.began = creg_nanoseconds()
        run_serially(task, args, n_tasks, backwards)
        loop.ended = creg_nanoseconds()
    else:
        share_out(&team, task, args, n_tasks, loop.used, backwards)
        loop.began = creg_nanoseconds()
        team.runtime.parallel(run_thread, &team, loop.used, 0)
        loop.ended = creg_nanoseconds()
        if not exact:
            loop.serial = serial_time(&team, n_tasks)
            creg_note_loop(&creg_threads, &loop)
    if loop.used < wanted:
        creg_note_fewer(&creg_threads, elements, loop.ended - loop.began)


cdef void parallel_for(block_task task, void *args, ptrdiff_t n_tasks, ptrdiff_t elements) noexcept nogil:
    run_tasks(task, args, n_tasks, elements, False)


cdef void parallel_for_backwards(block_task task, void *args, ptrdiff_t n_tasks, ptrdiff_t elements) noexcept nogil:
    run_tasks(task, args, n_tasks, elements, True)


cdef void run_parallel(block_task task, void *args, ptrdiff_t n_tasks, ptrdiff_t elements) noexcept:
    if elements < ELEMENTS_WORTH_RELEASE:
        parallel_for(task, args, n_tasks, elements)
        return
    with nogil:
        parallel_for(task, args, n_tasks, elements)
