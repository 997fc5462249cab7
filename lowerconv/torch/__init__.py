"""PyTorch modules, run and trained here; PyTorch is imported here alone.

`convert` turns a module into one planned program, in evaluation and in training.
"""

try:
    import torch as _torch  # noqa: F401
except ImportError:
    raise ImportError("lowerconv.torch needs PyTorch: pip install 'lowerconv[torch]'") from None

from lowerconv.torch.convert import NotConvertedError, NotConvertedWarning, convert

__all__ = ["NotConvertedError", "NotConvertedWarning", "convert"]
