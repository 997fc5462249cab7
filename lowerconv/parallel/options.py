"""How the ranks of a job share the work."""

from __future__ import annotations

import os
from dataclasses import dataclass

from lowerconv.arguments import Choice, Flag, Number, Text, argument, check
from lowerconv.parallel.comm.collectives import ALLREDUCE

STRATEGIES = ("data", "tree", "model", "owt", "spatial", "async", "server")
WIRES = ("float32", "bf16", "fp16")
SCHEMES = ("a", "b", "c")
OVERLAPS = ("thread", "layers", "none")
AUTO = "auto"
CHECK_EVERY = 100  # updates, of deterministic runs

# Options that mean something with some strategies only.
BELONGS_TO = {
    "allreduce": ("data", "owt", "spatial", "async"),
    "wire": ("data", "tree", "owt", "spatial"),
    "bucket_mib": ("data", "tree", "owt", "spatial", "async"),
    "owt_border": ("owt",),
    "owt_scheme": ("owt",),
    "owt_chunks": ("owt",),
    "owt_updates": ("owt",),
    "staleness": ("async", "server"),
    "servers": ("server",),
    "elastic": ("data", "tree"),
    # Of the others weights agree at the end of an epoch only.
    "deterministic": ("data", "tree", "model", "owt", "spatial", "async"),
    "check_every": ("data", "tree", "model", "owt", "spatial"),
}


@dataclass(frozen=True)
class ParallelOptions:
    """How the ranks share the work; what they compute with one strategy or another is the same.

    Exceptions are ``async``, ``server`` with staleness, and OWT with several updates a step: these
    compute something else, as they say.

    Attributes
    ----------
    strategy : str
        ``data``: each rank computes a share of every batch, gradients are summed. ``tree``: the
        same, summed by pairs and pairs of pairs. ``model``: each rank has a share of every layer.
        ``owt``: convolutions as with ``data``, fully connected layers as with ``model``.
        ``spatial``: each rank computes some rows of all images. ``async``: sums of gradients
        arrive some steps later. ``server``: ranks keep a share of the weights each, and update it
        with what the others send.
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
        How often a step updates the layers after the border.
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

    strategy: str = argument(
        "data",
        Choice(STRATEGIES),
        "how they share the work (docs/cluster.md); default: data",
        option="parallel",
    )
    allreduce: str = argument(
        AUTO,
        Choice((AUTO, *ALLREDUCE)),
        "how gradients are summed; default: auto, the fastest of a measurement at the start",
    )
    overlap: str = argument(
        AUTO,
        Choice((AUTO, *OVERLAPS)),
        "who moves messages while layers are computed: a thread, the main thread between "
        "layers, or nobody; default: auto",
    )
    bucket_mib: float = argument(
        2.0, Number(float, 1e-3, 1024), "of gradients that travel together; default: 2", "MIB"
    )
    wire: str = argument("float32", Choice(WIRES), "how gradients travel; default: float32")
    deterministic: bool = argument(
        False,
        Flag(),
        "sum in the order of the ranks: the same ranks give the same bits each time",
    )
    check_every: int | None = argument(
        None,
        Number(int, 1),
        "compare the weights of all ranks by checksum; default: every epoch, every 100 "
        "updates with --deterministic",
        "UPDATES",
    )
    owt_border: str | None = argument(
        None,
        Text("the name of a layer"),
        "of --parallel owt: the first layer that is not data-parallel; default: the first "
        "fully connected one",
        "LAYER",
    )
    owt_scheme: str = argument("c", Choice(SCHEMES), "how activations cross the border; default: c")
    owt_chunks: int | None = argument(
        None, Number(int, 1), "pieces of a batch in scheme c; default: as many as ranks", "K"
    )
    owt_updates: int = argument(
        1, Number(int, 1), "updates of the layers after the border in each step; default: 1", "K"
    )
    staleness: int = argument(
        1,
        Number(int, 0, 64),
        "by which gradients may be late, with --parallel async or server; default: 1",
        "STEPS",
    )
    servers: int | None = argument(
        None,
        Number(int, 1),
        "ranks that keep a share of the weights, with --parallel server; default: all",
        "N",
    )
    stall_timeout: float | None = argument(
        None,
        Number(float, 0.1),
        "end the run, naming the rank, when one does not answer for so long",
        "SECONDS",
    )
    elastic: bool = argument(
        False,
        Flag(),
        "go on with the others when a rank dies (Open MPI, mpiexec --with-ft ulfm)",
    )
    timeline: str | None = argument(
        None,
        Text("a file"),
        "record what all ranks do in some steps: https://ui.perfetto.dev opens FILE, "
        "lowerconv timeline draws it and tells how much communication was hidden",
        "FILE",
    )
    timeline_first: int = argument(5, Number(int, 0), "first step of it; default: 5", "N")
    timeline_count: int = argument(10, Number(int, 1), "steps in it; default: 10", "N")

    def __post_init__(self) -> None:
        if isinstance(self.timeline, os.PathLike):
            object.__setattr__(self, "timeline", os.fspath(self.timeline))
        check(self)
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
