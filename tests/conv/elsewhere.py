"""Runs convolutions in a process of its own, with other instructions or more threads than this one.

The environment says which, before Python starts. Pickled jobs come in through stdin and pickled
results leave through stdout; the name of each job goes to stderr before it begins.
"""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


class Job(NamedTuple):
    """One plan, made for a number of threads and called several times."""

    name: str
    threads: int
    plan: tuple[Any, ...]  # arguments of ``plan_conv2d``
    options: dict[str, Any]
    calls: list[tuple[Array, ...]]  # operands; arrays that are the same stay the same


class Done(NamedTuple):
    """What became of a job."""

    results: list[Array]
    workers: int  # threads that had something to do


def run(job: Job) -> Done:
    import lowerconv as lc
    from lowerconv.conv import costs

    print(job.name, file=sys.stderr, flush=True)
    # As if threads started in no time: the small problems of tests too are shared out.
    costs.LAUNCH = 0.0
    lc.set_num_threads(job.threads)
    plan = lc.plan_conv2d(*job.plan, **job.options)
    workers = plan.executable.schedule.workers  # type: ignore[attr-defined]
    return Done([plan(*operands) for operands in job.calls], workers)


def elsewhere(jobs: list[Job], **environment: str) -> list[Done]:
    """Run jobs of an engine that has workers in a process with these environment variables."""
    import lowerconv as lc

    package_dir = str(Path(lc.__file__).parents[1])
    path = os.pathsep.join(filter(None, [package_dir, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, __file__],
        # Plain tuples: the child knows the class of the jobs under another module's name.
        input=pickle.dumps([tuple(job) for job in jobs]),
        capture_output=True,
        env=os.environ | {"PYTHONPATH": path} | environment,
        timeout=600,
    )
    messages = done.stderr.decode()
    assert done.returncode == 0, f"return code {done.returncode} in {messages[-2000:]}"
    return [Done(*fields) for fields in pickle.loads(done.stdout)]


if __name__ == "__main__":
    received = pickle.load(sys.stdin.buffer)
    sys.stdout.buffer.write(pickle.dumps([tuple(run(Job(*fields))) for fields in received]))
