"""How the ranks of a job share the work."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from lowerconv.parallel.collectives import ALLREDUCE

STRATEGIES = ("data", "tree", "model", "owt", "async", "server")
WIRES = ("float32", "bf16", "fp16")
SCHEMES = ("a", "b", "c")
OVERLAPS = ("thread", "layers", "none")
AUTO = "auto"
CHECK_EVERY = 100  # updates, of deterministic runs

# A value is from the first number on and at most the second.
RANGES: dict[str, tuple[type, float, float]] = {
    "bucket_mib": (float, 1e-3, 1024),
    "owt_chunks": (int, 1, inf),
    "owt_updates": (int, 1, inf),
    "staleness": (int, 0, 64),
    "servers": (int, 1, inf),
    "stall_timeout": (float, 0.1, inf),
    "check_every": (int, 1, inf),
    "timeline_first": (int, 0, inf),
    "timeline_count": (int, 1, inf),
}
# Options that mean something with some strategies only.
BELONGS_TO = {
    "allreduce": ("data", "owt", "async"),
    "wire": ("data", "tree", "owt"),
    "bucket_mib": ("data", "tree", "owt", "async"),
    "owt_border": ("owt",),
    "owt_scheme": ("owt",),
    "owt_chunks": ("owt",),
    "owt_updates": ("owt",),
    "staleness": ("async", "server"),
    "servers": ("server",),
    "elastic": ("data", "tree"),
    # Of the others weights agree at the end of an epoch only.
    "deterministic": ("data", "tree", "model", "owt", "async"),
    "check_every": ("data", "tree", "model", "owt"),
}


@dataclass(frozen=True)
class ParallelOptions:
    """How the ranks share the work; what they compute with one strategy or another is the same.

    But for ``async``, ``server`` with staleness, and OWT with several updates a step: these compute
    something else, as they say.

    Attributes
    ----------
    strategy : str
        ``data``: each rank computes a share of every batch, gradients are summed. ``tree``: the
        same, summed by pairs and pairs of pairs. ``model``: each rank has a share of every layer.
        ``owt``: convolutions as with ``data``, fully connected layers as with ``model``. ``async``:
        sums of gradients arrive some steps later. ``server``: ranks keep a share of the weights
        each, and update it with what the others send.
    allreduce : str
        How sums of gradients are made: one of `collectives.ALLREDUCE`, or ``auto``, the fastest by
        a measurement at the start.
    overlap : str
        Who moves messages while layers are computed: a ``thread``, the main thread between
        ``layers``, nobody (``none``: sums begin when all gradients are there), or ``auto``: a
        thread between hosts and where it has a spare core, else between layers.
    bucket_mib : float
        MiB of gradients that travel together.
    wire : str
        How gradients travel: ``float32``, ``bf16`` or ``fp16``, the latter with error feedback.
    deterministic : bool
        Sum in the order of the ranks: the same ranks give the same bits each time, whatever is
        measured at the start. Weights are compared by checksum every `check_every` updates.
    check_every : int, optional
        Updates; by default weights are compared once an epoch, 100 if deterministic.
    owt_border : str, optional
        Name of the first layer that is not data-parallel; default: the first fully connected one.
    owt_scheme : str
        ``a``, ``b`` or ``c``.
    owt_chunks : int, optional
        Pieces of a batch in scheme c; by default as many as ranks.
    owt_updates : int
        How often a step updates the layers behind the border.
    staleness : int
        Steps by which gradients may be late.
    servers : int, optional
        Ranks that keep a share of the weights; by default all.
    stall_timeout : float, optional
        Seconds after which a rank that does not answer is named, and the run ended.
    elastic : bool
        Go on with the ranks that are left when one dies; needs Open MPI with
        ``mpiexec --with-ft ulfm``.
    timeline : str, optional
        File for a trace of some steps.
    timeline_first, timeline_count : int
        Which steps these are: the first one, counted from 0 where this run begins, and how many.
    """

    strategy: str = "data"
    allreduce: str = AUTO
    overlap: str = AUTO
    bucket_mib: float = 2.0
    wire: str = "float32"
    deterministic: bool = False
    check_every: int | None = None
    owt_border: str | None = None
    owt_scheme: str = "c"
    owt_chunks: int | None = None
    owt_updates: int = 1
    staleness: int = 1
    servers: int | None = None
    stall_timeout: float | None = None
    elastic: bool = False
    timeline: str | None = None
    timeline_first: int = 5
    timeline_count: int = 10

    def __post_init__(self) -> None:
        for name, choices in (
            ("strategy", STRATEGIES),
            ("allreduce", (AUTO, *ALLREDUCE)),
            ("overlap", (AUTO, *OVERLAPS)),
            ("wire", WIRES),
            ("owt_scheme", SCHEMES),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name}: got {getattr(self, name)!r}, expected one of {', '.join(choices)}"
                )
        for name, (kind, least, most) in RANGES.items():
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not issubclass(type(value), (int, kind)):
                raise TypeError(f"{name}: got {value!r}, expected {kind.__name__}")
            if not least <= value <= most:
                raise ValueError(f"{name}: got {value}, expected {describe_range(least, most)}")
        defaults = type(self).__dataclass_fields__
        for name, owners in BELONGS_TO.items():
            if self.strategy not in owners and getattr(self, name) != defaults[name].default:
                raise ValueError(
                    f"{name}: got {getattr(self, name)!r} with strategy {self.strategy!r}, "
                    f"expected it with {' or '.join(owners)} only"
                )

    @property
    def checked_every(self) -> int | None:
        """Updates after which weights are compared, beside the end of an epoch."""
        return CHECK_EVERY if self.deterministic and not self.check_every else self.check_every


def describe_range(least: float, most: float) -> str:
    """Return what a number may be, in words."""
    return f"at least {least:g}" + (f" and at most {most:g}" if most < inf else "")
