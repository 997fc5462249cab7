import ctypes
import threading

import pytest

from lowerconv.codegen import fork_join
from lowerconv.codegen.fork_join import ASLEEP, CLAIMED, FIRST_SLOT, FUTEX_WAKE, JOBS, SLOT_WORDS

I64 = ctypes.c_int64


class State:
    """The words of a team whose thread 1 is real; the test stands for the caller and thread 3."""

    def __init__(self, system):
        self.words = fork_join.new_state(4)
        self.system = ctypes.CFUNCTYPE(I64, *[I64] * 4)(system)  # kept as long as it is called
        self.words[fork_join.SYSTEM] = ctypes.cast(self.system, ctypes.c_void_p).value
        self.words[fork_join.WORKERS] = 4

    def slot(self, worker, field):
        """Return a counter: 32 bits of a word."""
        number = (FIRST_SLOT + worker) * SLOT_WORDS + field
        return self.words[number : number + 1].view("int32")[:1]

    def set_function(self, function):
        self.words[fork_join.FUNCTION] = ctypes.cast(function, ctypes.c_void_p).value or 0


@pytest.mark.skipif(fork_join._futex() is None, reason="threads cannot wait for memory here")
def test_a_thread_wakes_its_children_for_the_job_that_it_claims(watchdog):
    # What worker 2 does may wait for worker 3.  So when the caller has done a job of thread 1
    # itself, and hands over the next one while thread 1 is still waking others for the former,
    # thread 3 has to be woken for that one, too.
    seen = []

    def work(job, worker):
        seen.append(f"job {job}")
        state.words[fork_join.PENDING] = 2
        state.set_function(None)  # the last job
        state.slot(1, JOBS)[0] += 1

    function = ctypes.CFUNCTYPE(None, I64, I64)(work)

    def system(number, pointer, operation, value):
        third = state.words.ctypes.data + 8 * (FIRST_SLOT + 3) * SLOT_WORDS
        if operation & FUTEX_WAKE and pointer == third:
            seen.append("wake 3")
            if seen == ["wake 3"]:
                state.slot(1, CLAIMED)[0] = 1
                state.words[fork_join.JOB] = 2
                state.slot(3, JOBS)[0] = 2
                state.slot(1, JOBS)[0] = 2
        return 0

    state = State(system)
    state.set_function(function)
    state.words[fork_join.JOB], state.words[fork_join.PENDING] = 1, 2
    state.slot(3, ASLEEP)[0] = 1
    serve = ctypes.CFUNCTYPE(None, I64, I64)(fork_join.address("serve"))
    thread = threading.Thread(target=serve, args=(state.words.ctypes.data, 1))
    thread.start()
    state.slot(3, JOBS)[0] = 1
    state.slot(1, JOBS)[0] = 1
    thread.join()
    assert seen[:3] == ["wake 3", "wake 3", "job 2"]
