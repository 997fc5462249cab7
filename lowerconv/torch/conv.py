"""Convolutions alone, for models that cannot be traced."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch.nn.modules.utils import _pair

from lowerconv.torch.library import conv2d


class Conv2d(torch.nn.Conv2d):
    """`torch.nn.Conv2d` that computes here: the same arguments, parameters and results.

    On the CPU, in float32 or float64.  It may be differentiated any number of times, and traced by
    `torch.compile` and `torch.export` as an operator.  Results are contiguous, whatever the memory
    format of the images.

    Parameters
    ----------
    in_channels, out_channels : int
        C and K.
    kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype : optional
        As for `torch.nn.Conv2d`.

    Examples
    --------
    >>> import lowerconv.torch
    >>> conv = lowerconv.torch.Conv2d(3, 8, 3, padding="same", padding_mode="reflect")
    >>> conv(torch.ones(2, 3, 5, 5)).shape
    torch.Size([2, 8, 5, 5])
    """

    def _conv_forward(
        self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        margins = self._reversed_padding_repeated_twice
        if self.padding_mode != "zeros":
            input = F.pad(input, margins, mode=self.padding_mode)
            margins = [0, 0, 0, 0]
        elif not isinstance(self.padding, str):  # attributes may have been set since
            rows, columns = _pair(self.padding)
            margins = [columns, columns, rows, rows]
        left, right, top, bottom = margins
        return conv2d(
            *(input, weight, bias, _pair(self.stride), (top, bottom, left, right)),
            *(_pair(self.dilation), self.groups),
        )


def patch(model: torch.nn.Module) -> torch.nn.Module:
    """Have the convolutions of a model compute here; everything else stays as it is.

    Each `torch.nn.Conv2d` becomes a `Conv2d` where it is: the same object, with its parameters,
    names and hooks.  Subclasses of `torch.nn.Conv2d` have a forward of their own and stay.

    Parameters
    ----------
    model : torch.nn.Module
        Changed.

    Returns
    -------
    torch.nn.Module
        `model`.

    Raises
    ------
    TypeError
        `model` is no module.

    Warns
    -----
    UserWarning
        There is no such convolution in it.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: got {type(model).__name__}, expected a torch.nn.Module")
    found = [part for part in model.modules() if type(part) in (torch.nn.Conv2d, Conv2d)]
    if not found:
        warnings.warn(
            f"{type(model).__name__} has no torch.nn.Conv2d: nothing is computed by lowerconv",
            stacklevel=2,
        )
    for part in found:
        part.__class__ = Conv2d
    return model
