"""Run by mpiexec: facts and weights that are the same on all ranks, or that differ on some.

usage: agreement.py RANKS
"""

import sys

import numpy as np

from lowerconv.parallel import world
from lowerconv.parallel.comm.agreement import (
    DisagreementError,
    check_facts_agree,
    check_weights_agree,
)

c = world()
assert c.ranks == int(sys.argv[1])


def refused(check, values):
    """Return the message, "" if there is none; the same on all ranks."""
    try:
        check(c, values)
    except DisagreementError as error:
        message = str(error)
    else:
        message = ""
    messages = c.gather(message)  # hangs, or fails, if some ranks went on and others did not
    assert len(set(messages)) == 1, messages
    return message


last = c.rank == c.ranks - 1
who = "rank 0" if c.ranks == 2 else f"ranks 0-{c.ranks - 2}"
other = f"rank {c.ranks - 1}"

assert refused(check_facts_agree, {"a": 1, "b": [2, 3]}) == ""
assert refused(check_facts_agree, {}) == ""
message = refused(check_facts_agree, {"a": 1, "lr": 0.5 if last else 0.1})
assert message.endswith(f"lr is 0.1 on {who}, 0.5 on {other}"), message
message = refused(check_facts_agree, {"a": 1} | ({"b": 2} if last else {}))
assert message.endswith(f"b is nothing on {who}, 2 on {other}"), message
message = refused(check_facts_agree, {"rank": c.rank})
assert all(f"{rank} on rank {rank}" in message for rank in range(c.ranks)), message
names = [f"parameter {i}" for i in range(20)]
message = refused(check_facts_agree, dict.fromkeys(names, c.rank))
assert "parameter 3 " in message and "parameter 4 " not in message, message
assert message.endswith("and 16 more differ"), message
message = refused(check_facts_agree, dict.fromkeys(names if last else names[::-1], 1))
assert message.endswith(f"is parameter 19 on {who}, parameter 0 on {other}"), message

rng = np.random.default_rng(3)  # the same on all ranks
arrays = {
    "0.weight": rng.standard_normal((4, 3, 5), np.float32),
    "0.bias": np.zeros(0, np.float32),
    "1.weight": rng.standard_normal((7, 6), np.float32).T,
    "1.scale": np.float32(rng.standard_normal(())).reshape(()),
    "2.count": np.arange(5),
}
assert refused(check_weights_agree, arrays) == ""
assert refused(check_weights_agree, {}) == ""
for name in ("0.weight", "1.weight", "1.scale", "2.count"):
    changed = {key: array.copy() for key, array in arrays.items()}
    if last:
        array = changed[name]
        view = array.reshape(-1)[-1:] if array.ndim else array.reshape(1)
        bits = array.copy().reshape(-1).view(np.uint8)
        bits[-1 if sys.byteorder == "big" else -array.itemsize] ^= 1  # the last bit of the last
        changed[name] = bits.view(array.dtype).reshape(array.shape)
        if name != "2.count":
            changed["2.count"] = changed["2.count"] + 1
    differing = 1 if name == "2.count" else 2
    message = refused(check_weights_agree, changed)
    assert f"in {differing} of 5 parameters, first in '{name}': its checksum is" in message, message
    assert f" on {who}, " in message and message.endswith(f" on {other}"), message
print(f"rank {c.rank} done")
