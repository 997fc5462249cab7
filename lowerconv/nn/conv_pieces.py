"""Convolutions of 16-bit tensors, some images at a time.

::

    16 bits of some images -> scratch, float32 -> the float32 pass -> scratch -> 16 bits
    16 bits of some images -> a pass of words of two numbers -> 16 bits

The second one, of bf16, is taken where it costs less (`conv.words.bf16`).  The scratch memory of
a piece is a few MiB, which stay in the caches: all else has 16 bits.  Which images make a piece
does not depend on the number of threads, so that sums of pieces, the gradients of filters, do not
either.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from lowerconv.codegen.half_arrays import HALF_DTYPES
from lowerconv.codegen.isa import LINE
from lowerconv.conv.plan import ConvPlan
from lowerconv.conv.words.bf16 import PER_WORD
from lowerconv.copying import not_copied
from lowerconv.nn.frame import Frame, HalfTensor, Tensor
from lowerconv.nn.moving import move

BYTES = 4 << 20  # of a piece, all of its images in float32, or words: a share of the last cache
LAUNCHES = 8  # of a piece: up to three of a pass, filters, and what is converted

MakePlan = Callable[[int], ConvPlan]  # given the images of a piece, its pass


class Piece(NamedTuple):
    """Some images of a frame."""

    first: int
    images: int


def pieces_of(N: int, image_bytes: int, together: int = 1) -> list[Piece]:
    """Return N images as pieces of about the same size, each a multiple of `together` images.

    The last one may have fewer.
    """
    units = -(-N // together)
    most = max(1, BYTES // max(1, image_bytes * together))
    number = max(1, -(-units // most))
    bounds = [min(N, units * i // number * together) for i in range(number + 1)]
    return [Piece(first, last - first) for first, last in pairwise(bounds)]


def takes_words(tensors: tuple[Tensor, ...]) -> bool:
    """Return whether passes between tensors may multiply words: all are bf16."""
    return all(isinstance(t, HalfTensor) and t.dtype == HALF_DTYPES["bf16"] for t in tensors)


@not_copied("copy the network, which plans anew")
class Pass:
    """One pass of a convolution over all pieces.

    Parameters
    ----------
    frame : Frame
        Of which scratch memory is asked for.
    tensors : tuple of Tensor
        The operands of the pass that are images, and its result if that is.
    make : callable
    filters : int
        Items of a result that is no images.
    takes_bits : bool
        Whether plans take bits of bf16, and make words of them.
    """

    def __init__(
        self,
        frame: Frame,
        tensors: tuple[Tensor, ...],
        make: MakePlan,
        filters: int = 0,
        takes_bits: bool = False,
    ) -> None:
        self._frame, self._tensors, self.takes_bits = frame, tensors, takes_bits
        if takes_bits:
            joined = tensors if filters else tensors[:1]
            image = sum(2 * t.size for t in joined)
            self.pieces = pieces_of(tensors[0].N, image, PER_WORD if filters else 1)
        else:
            image = sum(4 * t.size for t in tensors if isinstance(t, HalfTensor))
            self.pieces = pieces_of(tensors[0].N, image)
        self.plans = {count: make(count) for count in {piece.images for piece in self.pieces}}
        most = max(piece.images for piece in self.pieces)
        self._offsets, at = [], 0
        for tensor in tensors:
            self._offsets.append(at)
            if self._converts(tensor):
                at += -(-most * tensor.size * 4 // LINE) * LINE
        self._part = at
        if len(self.pieces) > 1:
            at += 4 * filters
        frame.scratch_bytes = max(frame.scratch_bytes, at)
        frame.launches = max(frame.launches, LAUNCHES * len(self.pieces))
        self._made: dict[tuple[int, Piece], tuple[np.ndarray, np.ndarray, Tensor, Tensor]] = {}

    @property
    def algorithm(self) -> str:
        """Of the first plan."""
        return self.plans[self.pieces[0].images].algorithm

    @property
    def reason(self) -> str:
        """Why it is that."""
        return self.plans[self.pieces[0].images].reason

    @property
    def workspace_bytes(self) -> int:
        """Of all plans."""
        return max(plan.workspace_bytes for plan in self.plans.values())

    def prepack(self, *arguments: Any) -> None:
        """Keep filters, as `ConvPlan.prepack` does."""
        for plan in self.plans.values():
            plan.prepack(*arguments)

    def _converts(self, tensor: Tensor) -> bool:
        """Return whether plans take another tensor than the one that is stored."""
        return isinstance(tensor, HalfTensor) and not self.takes_bits

    def _both(self, which: int, piece: Piece) -> tuple[Tensor, Tensor]:
        """Return images of a tensor as they are stored, and as plans take them."""
        tensor, scratch = self._tensors[which], self._frame.scratch
        memory, wides, *found = self._made.get((which, piece), (None, None))
        if memory is not tensor.flat or wides is not scratch:  # they have moved
            stored = wide = tensor.some(piece.first, piece.images)
            if self._converts(tensor):
                wide = Tensor(stored.shape, np.dtype(np.float32))
                wide.place(scratch[self._offsets[which] :])
            found = [stored, wide]
            self._made[which, piece] = tensor.flat, scratch, stored, wide
        stored, wide = found
        return stored, wide

    def _wide(self, which: int, piece: Piece) -> np.ndarray:
        """Return images of a tensor as plans take them."""
        stored, wide = self._both(which, piece)
        if wide is not stored:
            move(stored, wide, False)
        return wide.stored

    def is_capturable(self, *rest: np.ndarray) -> bool:
        """Return whether `images` only launches kernels, with filters kept and `rest` beside."""
        return all(
            self.plans[piece.images].is_capturable(
                self._both(0, piece)[1].stored, *rest, out=self._both(1, piece)[1].stored
            )
            for piece in self.pieces
        )

    def images(
        self, filters: tuple[np.ndarray, ...], residual: Tensor | None = None, adds: bool = False
    ) -> None:
        """Compute images from images: forward, or the gradient of the input.

        Parameters
        ----------
        filters : tuple of ndarray
            What plans take beside images.
        residual : Tensor, optional
            What plans add their result to, before it is rounded.
        adds : bool
            Whether what is rounded is added to what is there; plans of words do so.
        """
        for piece in self.pieces:
            source, (stored, wide) = self._wide(0, piece), self._both(1, piece)
            if residual is not None and not (self.takes_bits and self._frame.over_residual):
                move(residual.some(piece.first, piece.images), wide, False)
            self.plans[piece.images](source, *filters, out=wide.stored)
            if wide is not stored:
                move(wide, stored, adds)

    def filters(self, gradient: np.ndarray) -> None:
        """Compute the gradient of filters: the sum of those of all pieces, in their order."""
        rest = self._frame.scratch[self._part : self._part + gradient.nbytes]
        for number, piece in enumerate(self.pieces):
            out = rest.view(gradient.dtype).reshape(gradient.shape) if number else gradient
            self.plans[piece.images](self._wide(0, piece), self._wide(1, piece), out=out)
            if number:
                gradient += out
