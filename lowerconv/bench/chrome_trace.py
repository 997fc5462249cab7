"""What the workers of convolutions did, as a file that https://ui.perfetto.dev opens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lowerconv.conv.watched import Event


def perfetto(traces: Mapping[str, Sequence[Event]]) -> bytes:
    """Return traces as a file that https://ui.perfetto.dev opens: a process for each.

    The format is the "Trace Event Format" of Chromium: complete events, in microseconds.
    """
    lines: list[dict[str, Any]] = []
    for process, (name, events) in enumerate(traces.items(), 1):
        lines.append(
            {"ph": "M", "name": "process_name", "pid": process, "tid": 0, "args": {"name": name}}
        )
        for worker in sorted({event[0] for event in events}):
            about = {"name": f"thread {worker}"}
            lines.append(
                {"ph": "M", "name": "thread_name", "pid": process, "tid": worker, "args": about}
            )
        lines += [
            {
                "ph": "X",
                "name": what,
                "cat": "lowerconv",
                "pid": process,
                "tid": worker,
                "ts": begin / 1e3,
                "dur": (end - begin) / 1e3,
            }
            for worker, what, begin, end in events
        ]
    return json.dumps({"traceEvents": lines, "displayTimeUnit": "ns"}).encode()
