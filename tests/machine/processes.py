"""Several processes that do the same at the same time."""

import subprocess
import sys

# Loading the library takes longer than the work: so each waits until all have loaded it.
PRELUDE = """
import sys
from lowerconv.conv import wisdom
from lowerconv.machine import disk_cache
print("ready", flush=True)
number = int(sys.stdin.readline())
"""


def run_together(count, code):
    """Run `code` in `count` processes at once, each with its `number`; none may fail or warn."""
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", PRELUDE + code]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for number, process in enumerate(processes):
        process.stdin.write(f"{number}\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * count
    return outputs
