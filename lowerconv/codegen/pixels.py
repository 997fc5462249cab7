"""How vectors of pixels are stored: beside each other, or some items apart."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from llvmlite import ir

from lowerconv.codegen.emit import I32, Emitter
from lowerconv.codegen.epilogue import Epilogue


def store_pixels(
    e: Emitter,
    value: ir.Value,
    target: ir.Value,
    first: int,
    count: int | ir.Value,
    *,
    epilogue: Epilogue,
    add: bool,
    step: int,
) -> None:
    """Store `count` lanes from item `first` on, `step` items apart.

    They are spread over as many vectors as it takes, or stored one by one where every vector would
    hold one at most.  A count that is known at run time takes masks.
    """
    most = count if isinstance(count, int) else e.lanes
    if step >= e.lanes and step > 1:
        for j in range(most):
            exists: AbstractContextManager[Any] = nullcontext()
            if not isinstance(count, int):
                some = e.builder.icmp_signed("<", e.constant(j), count)
                exists = e.builder.if_then(some, likely=True)
            with exists:
                pointer = e.address(target, first + j * step, e.scalar)
                item = e.builder.extract_element(value, e.constant(j, I32))
                if add:
                    there = e.builder.load(pointer, align=e.dtype.itemsize, typ=e.scalar)
                    item = e.add(there, item)
                e.builder.store(epilogue.apply(item), pointer, align=e.dtype.itemsize)
        return
    for part in range(step):
        # Lane j of this part is pixel (part * lanes + j) / step.
        begin = -(-part * e.lanes // step)
        if begin >= most:
            break
        wanted = [(part * e.lanes + j) for j in range(e.lanes)]
        chosen = [w % step == 0 and w // step < most for w in wanted]
        piece = value
        if step > 1:
            piece = e.shuffle(value, e.undefined, [min(w // step, e.lanes - 1) for w in wanted])
        at = first + part * e.lanes
        mask = None if all(chosen) else e.mask(chosen)
        if not isinstance(count, int):
            # Pixel w / step is below the count where w is below step times that.
            reach = e.builder.sub(
                e.builder.mul(count, e.constant(step)), e.constant(part * e.lanes)
            )
            mask = e.builder.and_(e.mask(chosen), e.lanes_below(reach))
        if add:
            there = e.load(target, at) if mask is None else e.masked_load(target, at, mask)
            piece = e.add(there, piece)
        if isinstance(count, int):
            e.store_chosen(epilogue.apply(piece), target, at, chosen)
        else:
            pointer = e.address(target, at, e.vector)
            e.store_lanes(epilogue.apply(piece), pointer, mask)
