"""The networks of `lowerconv.nn.models` in PyTorch, written independently, for tests and benches.

MobileNet-v2 is in PyTorch alone: `lowerconv.torch.convert` takes it.  Names are those of
torchvision, which is not needed, so that a state_dict of each fits ours key by key.  Auxiliary
classifiers give their scores in training only; they pool 5x5 pixels with stride 3, as the papers'.
"""

from .chains import alexnet, cifar10_quick, lenet, nin, vgg11, vgg16
from .googlenet import googlenet
from .inception_v3 import InceptionAux, inception_v3
from .mobilenet_v2 import mobilenet_v2
from .resnet import resnet18, resnet20, resnet50, resnet56

__all__ = [
    "InceptionAux",
    "alexnet",
    "cifar10_quick",
    "googlenet",
    "inception_v3",
    "lenet",
    "mobilenet_v2",
    "nin",
    "resnet18",
    "resnet20",
    "resnet50",
    "resnet56",
    "vgg11",
    "vgg16",
]
