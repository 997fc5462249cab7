"""PyTorch modules: they run and train here, unchanged.

`convert` makes a module's forward one planned program; `patch` replaces the convolutions alone.
Parameters stay the module's own.
"""

try:
    import torch  # noqa: F401
except ImportError:
    raise ImportError("this needs PyTorch: pip install 'lowerconv[torch]'") from None

from lowerconv.torch.backend import backend
from lowerconv.torch.conv import Conv2d, patch
from lowerconv.torch.convert import Converted, convert
from lowerconv.torch.native import NativeNetwork, to_native
from lowerconv.torch.registry import UnsupportedError

__all__ = [
    "Conv2d",
    "Converted",
    "NativeNetwork",
    "UnsupportedError",
    "backend",
    "convert",
    "patch",
    "to_native",
]
