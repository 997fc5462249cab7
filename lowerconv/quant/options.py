"""With how many bits a network trains: what can be asked for, and what goes together."""

from __future__ import annotations

from dataclasses import dataclass

from lowerconv.arguments import Choice, Flag, Integers, Number, argument, check
from lowerconv.quant.fixed_point import FixedPoint, RoundedUpdates

STEPS = ("tensor", "filter")
ROUNDINGS = ("stochastic", "nearest")
_FORMAT = "IL,FL, the bits before and after the point"

# Options that mean something beside others only.
_BELONGS_TO = {
    "weight_steps": "weight_bits",
    "gradient_fixed_point": "fixed_point",
    "rounding": "fixed_point",
}
# Those that exclude each other.
_EITHER_OR = (
    ("weight_bits", "ternary_weights"),
    ("weight_bits", "fixed_point"),
    ("activation_bits", "fixed_point"),
    ("ternary_weights", "fixed_point"),
)


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """With how many bits a network trains; by default with all.

    Parameters
    ----------
    weight_bits : int, optional
        2 to 8, multiples of a learnt step: see `lowerconv.quant.learned_step`. The first and the
        last layer have 8 bits, whatever is asked for.
    weight_steps : str, optional
        ``tensor``, the default, or ``filter``: what has a step of its own.
    activation_bits : int, optional
        As `weight_bits`, of what convolutions and fully connected layers read.
    ternary_weights : bool
        Weights are -a, 0 or a, see `lowerconv.quant.ternary`; those of the first and the last layer
        have 8 bits.
    fixed_point : (IL, FL), optional
        Weights, activations and gradients are fixed-point numbers, see
        `lowerconv.quant.fixed_point`.
    gradient_fixed_point : (IL, FL), optional
        Another format for gradients.
    rounding : str, optional
        ``stochastic``, the default, or ``nearest``.

    Raises
    ------
    TypeError, ValueError
        An option is of the wrong kind, out of range, or does not fit another; the message names it.
    """

    weight_bits: int | None = argument(
        None, Number(int, 2, 8), "of each weight, with a learnt step (LSQ)", "N"
    )
    weight_steps: str | None = argument(
        None, Choice(STEPS), "what has a step of its own; default: tensor"
    )
    activation_bits: int | None = argument(
        None, Number(int, 2, 8), "of what convolutions and fully connected layers read (LSQ)", "N"
    )
    ternary_weights: bool = argument(
        False, Flag(), "weights -a, 0 or a, with an a of each filter (TWN)"
    )
    fixed_point: tuple[int, int] | None = argument(
        None,
        Integers(_FORMAT, 2),
        "weights, activations and gradients as fixed-point numbers of so many bits before and "
        "after the point (Gupta et al. 2015)",
        "IL,FL",
    )
    gradient_fixed_point: tuple[int, int] | None = argument(
        None, Integers(_FORMAT, 2), "others for gradients, as in =-2,18", "IL,FL"
    )
    rounding: str | None = argument(
        None, Choice(ROUNDINGS), "of fixed-point numbers; default: stochastic"
    )

    def __post_init__(self) -> None:
        check(self)
        for name, owner in _BELONGS_TO.items():
            if getattr(self, name) is not None and not getattr(self, owner):
                raise ValueError(
                    f"{name}: got {getattr(self, name)!r} without {owner}, expected it with that"
                )
        for one, other in _EITHER_OR:
            if getattr(self, one) and getattr(self, other):
                raise ValueError(
                    f"{other}: got {getattr(self, other)!r} with {one} {getattr(self, one)!r}, "
                    "expected one of them"
                )
        for name in ("fixed_point", "gradient_fixed_point"):
            bits = getattr(self, name)
            if bits is not None:
                try:
                    FixedPoint(*bits)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from None

    @property
    def quantizes(self) -> bool:
        """Whether any of it is asked for."""
        options = (self.weight_bits, self.activation_bits, self.ternary_weights, self.fixed_point)
        return any(options)

    @property
    def formats(self) -> tuple[FixedPoint, FixedPoint]:
        """Those of weights and activations, and of gradients; where `fixed_point` is asked for."""
        assert self.fixed_point is not None
        return FixedPoint(*self.fixed_point), FixedPoint(
            *(self.gradient_fixed_point or self.fixed_point)
        )

    @property
    def stochastic(self) -> bool:
        """Whether fixed-point numbers are rounded stochastically."""
        return self.rounding != "nearest"

    def rounded_updates(self, seed: int = 0) -> RoundedUpdates | None:
        """Return what an optimizer rounds by; None where it does not.

        Parameters
        ----------
        seed : int
            Of stochastic rounding.

        Returns
        -------
        RoundedUpdates or None
        """
        if self.fixed_point is None:
            return None
        return RoundedUpdates(*self.formats, self.stochastic, seed)

    def words(self) -> str:
        """Return what is asked for, in words; empty where nothing is.

        Returns
        -------
        str
        """
        parts = []
        if self.weight_bits is not None:
            steps = "s of each filter" if self.weight_steps == "filter" else ""
            parts.append(f"{self.weight_bits}-bit weights{' with step' if steps else ''}{steps}")
        if self.ternary_weights:
            parts.append("ternary weights")
        if self.activation_bits is not None:
            parts.append(f"{self.activation_bits}-bit activations")
        if self.fixed_point is not None:
            values, gradients = self.formats
            other = f", gradients {gradients}" if gradients != values else ""
            rounding = "stochastic" if self.stochastic else "nearest"
            parts.append(f"fixed point {values}{other}, {rounding} rounding")
        return ", ".join(parts)
