"""In which order layers compute."""

from __future__ import annotations

from enum import Enum


class ExecutionOrder(Enum):
    """When a layer computes among the others of a network.

    The second and third are for two layers that begin and end something, while others between them
    compute; in a backward step they are the other way round.
    """

    IN_ORDER = "where the network applies it"
    RIGHT_AFTER_OPERANDS = "right behind what it reads"
    RIGHT_BEFORE_READERS = "right before what reads it"
    WEIGHT_GRADIENTS_LATER = (
        "in order; `Layer.differentiate` leaves out what only its own parameters need, which "
        "`Layer.differentiate_weights` computes after the next layer's `differentiate`"
    )
