"""Layers that normalise: batch norm, and local response norm."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv.checks import integer
from lowerconv.nn.frame import Frame
from lowerconv.nn.module import Layer, Parameter, Shape, Step


class BatchNorm2d(Layer):
    """Batch norm over images and pixels; arguments as in PyTorch.

    An addition and a ReLU that follow are computed in the same pass.

    Ioffe, Szegedy, "Batch normalization: accelerating deep network training by reducing internal
    covariate shift" (2015).

    Parameters
    ----------
    num_features : int
        C.
    eps : float
        Added to the variance.
    momentum : float
        Weight of a batch in the running statistics, which inference normalises with.
    synchronized : bool
        Whether the statistics are those of all ranks' batches together, and not of each rank's own.
    dtype : dtype-like
        float32 or float64.
    """

    keeps_x = True
    takes_relu = True
    takes_residual = True
    in_place = True

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        *,
        synchronized: bool = False,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        C = integer(num_features, "num_features", 1)
        if not eps > 0:
            raise ValueError(f"eps: got {eps}, expected a positive number")
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum: got {momentum}, expected 0 <= momentum <= 1")
        self.eps, self.momentum, self.synchronized = float(eps), float(momentum), synchronized
        self.weight = Parameter(np.ones(C, dtype))
        self.bias = Parameter(np.zeros(C, dtype))
        self.running_mean = np.zeros(C, dtype)
        self.running_var = np.ones(C, dtype)

    def initialize(self, rng: np.random.Generator) -> None:
        """Begin without scaling or shifting, and forget the statistics."""
        self.weight.data[:] = self.running_var[:] = 1
        self.bias.data[:] = self.running_mean[:] = 0

    def own_parameters(self) -> dict[str, Parameter]:
        """Return scale and shift."""
        return {"weight": self.weight, "bias": self.bias}

    def own_buffers(self) -> dict[str, np.ndarray]:
        """Return the running statistics."""
        return {"running_mean": self.running_mean, "running_var": self.running_var}

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return the shape of the operand."""
        (shape,) = shapes
        C = self.weight.data.size
        if len(shape) != 4 or shape[1] != C:
            raise ValueError(f"x: got shape {shape}, expected (N, {C}, H, W)")
        return shape

    def saved(self, *shapes: Shape) -> dict[str, tuple[Shape, Any]]:
        """Return the batch's statistics."""
        C, kind = shapes[0][1], np.dtype(np.float64)
        return {"mean": ((C,), kind), "inv_std": ((C,), kind)}

    def scale_and_shift(self) -> tuple[np.ndarray, np.ndarray]:
        """Return what each channel is multiplied with, and what then is added, at inference."""
        scale = self.weight.data / np.sqrt(self.running_var.astype(np.float64) + self.eps)
        return scale, self.bias.data - self.running_mean * scale

    def compute(self, frame: Frame, step: Step) -> None:
        x=frame.x.array.astype(np.float64); c=(None,slice(None),None,None)
        if step.training:
            mean=x.mean((0,2,3)); var=x.var((0,2,3)); inv=1/np.sqrt(var+self.eps); n=x.size//x.shape[1]
            if frame.saved: frame.saved["mean"][:]=mean; frame.saved["inv_std"][:]=inv
            self.running_mean[:]+=self.momentum*(mean-self.running_mean)
            self.running_var[:]+=self.momentum*(var*n/max(1,n-1)-self.running_var)
            y=(x-mean[c])*(inv*self.weight.data)[c]+self.bias.data[c]
        else:
            a,b=self.scale_and_shift(); y=x*a[c]+b[c]
        if frame.residual is not None: y=y+frame.residual.array
        if frame.relu: y=np.maximum(y,0)
        frame.y.array[...]=y

    def differentiate(self, frame: Frame, step: Step) -> None:
        x=frame.x.array.astype(np.float64); c=(None,slice(None),None,None)
        dy=frame.gradient.array
        if frame.relu: dy*=frame.y.array>0
        if frame.dresidual is not None:
            d=frame.dresidual.array; d[...]=d+dy if frame.add_residual else dy
        xh=(x-frame.saved["mean"][c])*frame.saved["inv_std"][c]
        db=dy.sum((0,2,3)); dg=(dy*xh).sum((0,2,3)); self.weight.grad[:]=dg; self.bias.grad[:]=db
        n=x.size//x.shape[1]
        if frame.dx is not None:
            g=(self.weight.data*frame.saved["inv_std"])[c]*(dy-db[c]/n-xh*dg[c]/n)
            frame.dx.array[...]=frame.dx.array+g if frame.adds[0] else g


class LocalResponseNorm(Layer):
    """Local response norm over channels; arguments as in PyTorch.

    ``y = x / (k + alpha / size * (sum of x^2 over `size` channels around))^beta``; Krizhevsky,
    Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks" (2012),
    section 3.3.

    Parameters
    ----------
    size : int
        Channels of the window.
    alpha, beta, k : float
    """

    keeps_x = True

    def __init__(
        self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
    ) -> None:
        super().__init__()
        self.size = integer(size, "size", 1)
        self.alpha, self.beta, self.k = float(alpha), float(beta), float(k)

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return the shape of the operand."""
        if len(shapes[0]) != 4:
            raise ValueError(f"x: got shape {shapes[0]}, expected (N, C, H, W)")
        return shapes[0]

    def _s(self,a):
        C=a.shape[1]; o=np.zeros_like(a); h=self.size//2
        for c in range(C):
            o[:,c]=a[:,max(0,c-h):c-h+self.size].sum(1)
        return o
    def _t(self,a):
        C=a.shape[1]; o=np.zeros_like(a); h=self.size//2
        for c in range(C):
            o[:,max(0,c-h):c-h+self.size]+=a[:,c:c+1]
        return o
    def compute(self, frame: Frame, step: Step) -> None:
        x=frame.x.array; s=self.k+self.alpha/self.size*self._s(x*x)
        frame.y.array[...]=x*s**-self.beta
    def differentiate(self, frame: Frame, step: Step) -> None:
        if frame.dx is None: return
        x=frame.x.array; dy=frame.gradient.array; s=self.k+self.alpha/self.size*self._s(x*x)
        g=dy*s**-self.beta-2*self.alpha*self.beta/self.size*x*self._t(dy*x*s**(-self.beta-1))
        d=frame.dx.array; d[...]=d+g if frame.adds[0] else g
