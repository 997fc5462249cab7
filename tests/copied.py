"""One object of each class that can be copied, and what its copies must do as it does."""

import atexit
import ctypes
import pickle
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

import lowerconv as lc
from lowerconv import data, nn
from lowerconv.codegen.isa import host_isa
from lowerconv.codegen.microkernel import Microkernel
from lowerconv.conv.problem import ConvProblem, conv_problem
from lowerconv.copying import Reference
from lowerconv.data import Augment, Dataset, Loader, Normalizer, ShardSet
from lowerconv.data.shards import Shard as ShardFile
from lowerconv.data.split import Subset
from lowerconv.nn.arithmetic import Arithmetic
from lowerconv.nn.conv_transpose import ConvTranspose2d
from lowerconv.nn.models import resnet20
from lowerconv.nn.normalise import Normalise, Softmax
from lowerconv.nn.pointwise import Pointwise
from lowerconv.nn.resize import Resize, taps
from lowerconv.parallel.comm.link import MessageMemory, SentBytes
from lowerconv.parallel.comm.listener import Listener
from lowerconv.parallel.comm.rank_map import Place, RankMap
from lowerconv.parallel.comm.status import Status
from lowerconv.parallel.sharding.cut import Back, Front, NetworkPart, cut_network
from lowerconv.parallel.sharding.layout import Layout
from lowerconv.parallel.sharding.row_layers import (
    DropoutOfRows,
    DropoutOfSamples,
    TakeRows,
    TakeSamples,
)
from lowerconv.parallel.sharding.sharded_layers import Bias, DropoutShard
from lowerconv.parallel.strategies.staleness import Staleness
from lowerconv.quant.fake_quant import QuantConv2d, QuantLinear
from lowerconv.quant.fixed_point import FixedPoint, RoundedOperand
from lowerconv.quant.learned_step import LearnedStep, LearnedStepWeights
from lowerconv.quant.ternary import TernaryWeights
from lowerconv.train import Classifier
from lowerconv.train.checkpoint import Checkpoint, save_checkpoint, state
from lowerconv.train.ema import WeightAverage
from lowerconv.train.progress import Reporter


class Made(NamedTuple):
    """How to make an object, or a tuple whose last is the object, and what then is compared."""

    make: Callable[[], Any]
    behave: Callable[[Any], Any]


def values(thing: Any) -> Any:
    """Return all that an object of plain values has."""
    if isinstance(thing, (list, tuple)):
        return [values(part) for part in thing]
    if isinstance(thing, dict):
        return {name: values(part) for name, part in thing.items()}
    if is_dataclass(thing) and not isinstance(thing, type):
        return [type(thing).__name__, *(values(getattr(thing, f.name)) for f in fields(thing))]
    if hasattr(thing, "__dict__") and type(thing).__module__.startswith("lowerconv"):
        return [type(thing).__name__, values(vars(thing))]
    return thing


def plain(cls: type) -> Any:
    """Return an object of a class of plain values, without asking it whether they are right."""
    if issubclass(cls, tuple):
        return cls(*map(float, range(len(cls._fields))))  # type: ignore[attr-defined]
    thing = object.__new__(cls)
    for number, field in enumerate(fields(cls)):  # type: ignore[arg-type]
        object.__setattr__(thing, field.name, float(number))
    return thing


# --- plans ---


def plan(op: str, algorithm: str, **options: Any) -> Callable[[], lc.ConvPlan]:
    x_shape = options.pop("x_shape", (2, 16, 20, 20))
    return lambda: lc.plan_conv2d(
        x_shape, (8, 16, 3, 3), padding=1, op=op, algorithm=algorithm, **options
    )


def planned(plan: lc.ConvPlan) -> Any:
    rng = np.random.default_rng(0)
    kind = plan.problem.dtype.type
    operands = [rng.standard_normal(o.shape).astype(kind) for o in plan.call.operands]
    out = np.full(plan.result_shape, 2, kind)
    plan(*operands, out=out)
    return out, plan.choice, plan.explain()


PLANS = {
    f"{op} {algorithm}": Made(plan(op, algorithm), planned)
    for op in ("forward", "input_grad", "weight_grad")
    for algorithm in lc.algorithms()
} | {
    "auto": Made(plan("forward", "auto"), planned),
    "one image": Made(plan("forward", "fused", x_shape=(16, 20, 20)), planned),
    "no image": Made(plan("forward", "auto", x_shape=(0, 16, 20, 20)), planned),
    "epilogue": Made(plan("forward", "fused", bias=True, activation="relu"), planned),
    "accumulate": Made(plan("forward", "winograd", accumulate=True), planned),
    "constant": Made(plan("forward", "winograd", constant_weights=True), planned),
    "float64": Made(plan("input_grad", "fused", dtype="float64"), planned),
}

# --- networks ---


class Both(nn.Module):
    """Applies a layer to two values."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: nn.Value) -> nn.Value:
        return self.layer(x, x)


class InTurn(nn.Module):
    """Layers of a list."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.ReLU()])

    def forward(self, x: nn.Value) -> nn.Value:
        for block in self.blocks:
            x = block(x)
        return x


def learnt(network: nn.Module, *shape: int) -> Any:
    """Return what a training step computes."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape or (2, 4, 6, 6)).astype(np.float32)
    y = network.run(x, nn.Step(training=True, input_grad=True))
    results = y if isinstance(y, tuple) else (y,)
    copies = [result.copy() for result in results]
    dx = network.backward(*copies)
    assert dx is not None
    return copies, dx.copy(), {n: p.grad.copy() for n, p in network.parameters().items()}


def flat(network: nn.Module) -> Any:
    return learnt(network, 2, 6)


def vector(features: int) -> np.ndarray:
    return np.arange(features, dtype=np.float32)


def halves(which: int) -> Callable[[], nn.Module]:
    network = nn.Sequential(
        nn.Conv2d(4, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 6), nn.ReLU()
    )
    return lambda: cut_network(network, "3", (4, 6, 6))[which]


FORMAT = FixedPoint(4, 12)


def quantized(layer: nn.Conv2d | nn.Linear, weights: Any) -> nn.Layer:
    kind = QuantConv2d if isinstance(layer, nn.Conv2d) else QuantLinear
    return kind.of_layer(layer, weights, LearnedStep(4, np.dtype(np.float32)))


NETWORKS = {
    nn.ReLU: Made(nn.ReLU, learnt),
    nn.Dropout: Made(nn.Dropout, learnt),
    nn.Concat: Made(lambda: Both(nn.Concat()), learnt),
    nn.Add: Made(lambda: Both(nn.Add()), learnt),
    nn.Flatten: Made(nn.Flatten, learnt),
    nn.Conv2d: Made(lambda: nn.Conv2d(4, 3, 3), learnt),
    nn.Linear: Made(lambda: nn.Linear(6, 5), flat),
    ConvTranspose2d: Made(lambda: ConvTranspose2d(4, 3, 3, 2), learnt),
    Normalise: Made(lambda: Normalise((1, 2, 3), 1e-5), learnt),
    Softmax: Made(lambda: Softmax(1), learnt),
    Pointwise: Made(lambda: Pointwise("silu"), learnt),
    Arithmetic: Made(lambda: Arithmetic("mul", np.full((4, 1, 1), 2, np.float32)), learnt),
    Resize: Made(lambda: Resize(*[taps(6, 3, 0.5, "linear", "half_pixel")] * 2), learnt),
    nn.BatchNorm2d: Made(lambda: nn.BatchNorm2d(4), learnt),
    nn.LocalResponseNorm: Made(lambda: nn.LocalResponseNorm(3), learnt),
    nn.MaxPool2d: Made(lambda: nn.MaxPool2d(2), learnt),
    nn.AvgPool2d: Made(lambda: nn.AvgPool2d(2), learnt),
    nn.GlobalAvgPool2d: Made(nn.GlobalAvgPool2d, learnt),
    nn.Sequential: Made(lambda: nn.Sequential(nn.Conv2d(4, 3, 3), nn.ReLU()), learnt),
    nn.ModuleList: Made(InTurn, learnt),
    type(resnet20()): Made(resnet20, lambda net: learnt(net, 1, 3, 8, 8)),
    Bias: Made(lambda: Bias(vector(6)), flat),
    DropoutShard: Made(lambda: DropoutShard(0.5, Layout.of(8), 0, 2), learnt),
    DropoutOfRows: Made(lambda: DropoutOfRows(0.5, range(2, 8), (4, 12, 6)), learnt),
    DropoutOfSamples: Made(lambda: DropoutOfSamples(0.5, 4, range(1, 3)), learnt),
    TakeRows: Made(lambda: TakeRows(range(1, 4)), learnt),
    TakeSamples: Made(lambda: TakeSamples(0, 2), learnt),
    LearnedStep: Made(lambda: LearnedStep(4, np.dtype(np.float32)), learnt),
    RoundedOperand: Made(lambda: RoundedOperand(FORMAT, FORMAT, True), learnt),
    QuantConv2d: Made(lambda: quantized(nn.Conv2d(4, 3, 3), LearnedStepWeights(4)), learnt),
    QuantLinear: Made(lambda: quantized(nn.Linear(6, 5), TernaryWeights()), flat),
    NetworkPart: Made(
        lambda: NetworkPart([("a.b", nn.Linear(6, 5))]), lambda part: list(part.parameters())
    ),
    Front: Made(halves(0), learnt),
    Back: Made(halves(1), lambda net: learnt(net, 2, 48)),
}


def copied_network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 6))


def trained(pair: tuple[nn.Module, nn.Optimizer]) -> Any:
    """Return what steps make of a network."""
    network, optimizer = pair
    for _ in range(3):
        learnt(network)
        optimizer.step()
    weights = {name: p.data.copy() for name, p in network.parameters().items()}
    return weights, optimizer.data, optimizer.state(), optimizer.updates


def averaged(pair: tuple[nn.Module, WeightAverage]) -> Any:
    network, average = pair
    for parameter in network.parameters().values():
        parameter.data += 1
    average.update(2)
    return average.values


def optimizer(kind: Callable[..., nn.Optimizer], **settings: Any) -> Made:
    def make() -> tuple[nn.Module, nn.Optimizer]:
        network = copied_network()
        made = network, kind(network, lr=0.01, **settings)
        trained(made)
        return made

    return Made(make, trained)


def average() -> tuple[nn.Module, WeightAverage]:
    network = copied_network()
    return network, WeightAverage(network, 0.5)


# --- data ---


def folder() -> Path:
    """Return a new folder, for as long as this process lives."""
    made = tempfile.mkdtemp(prefix="lowerconv-copied-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)


def dataset() -> Dataset:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (7, 3, 4, 5), np.uint8)
    return Dataset("copied", images, np.arange(7) % 3, ("a", "b", "c"))


def located(source: data.Source) -> Any:
    """Return the images themselves, as a loader finds them."""
    pixels = source.locate(np.arange(len(source)))
    sizes = pixels.sizes.prod(1) * source.image_shape[0]
    images = [
        ctypes.string_at(int(a), int(n)) for a, n in zip(pixels.addresses, sizes, strict=True)
    ]
    batches = [batch.images for batch in Loader(source, Normalizer(source), 3).batches(seed=1)]
    return images, source.labels, source.classes, batches


def shards() -> ShardSet:
    root = folder()
    for name in "abc":
        (root / "images" / name).mkdir(parents=True)
        for number in range(5):
            image = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(image).save(root / "images" / name / f"{number}.png")
    data.pack(f"folder:{root}/images?size=8", root / "shards")
    return data.read_shards(root / "shards")[0]


def classifier() -> Classifier:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    path = folder() / "checkpoint.safetensors"
    facts = {
        "settings": {"model": "mine", "ema": None},
        "inputs": {
            "image_shape": (3, 2, 2),
            "stored_size": (2, 2),
            "classes": ("a", "b", "c"),
            "mean": (0.5,) * 3,
            "deviation": (0.2,) * 3,
        },
        "history": [],
    }
    save_checkpoint(path, Checkpoint(state(network), facts))
    return Classifier(path, network)


def augmented(augment: Augment) -> Any:
    return augment(np.arange(48, dtype=np.uint8).reshape(3, 4, 4), seed=3)


def normalised(normalizer: Normalizer) -> Any:
    return normalizer(dataset().images, np.arange(7))


def kernel() -> Microkernel:
    return Microkernel(host_isa(), np.dtype("f4"), (0, 1), (0,), 1, 1, "columns")


OTHERS = {
    nn.SGD: optimizer(nn.SGD, momentum=0.9),
    nn.LossScale: Made(lambda: nn.LossScale(8.0, good=3), values),
    nn.Adam: optimizer(nn.Adam),
    nn.LARS: optimizer(nn.LARS),
    WeightAverage: Made(average, averaged),
    nn.Parameter: Made(lambda: nn.Parameter(np.ones(3)), values),
    Reference: Made(lambda: _referring(), lambda pair: pair[1]() is pair[0]),
    Dataset: Made(dataset, located),
    Subset: Made(lambda: Subset(dataset(), np.arange(1, 6)), located),
    ShardSet: Made(shards, located),
    ShardFile: Made(lambda: shards().shards[0], lambda s: (s.data.copy(), s.counts, s.header)),
    Normalizer: Made(lambda: Normalizer(dataset()), normalised),
    Augment: Made(lambda: Augment(crop=20, rotate=9, cast=4), augmented),
    Classifier: Made(
        classifier, lambda c: c.probabilities(np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2))
    ),
    Microkernel: Made(kernel, lambda k: (str(k.build()), k.assembly())),
    ConvProblem: Made(
        lambda: conv_problem((1, 2, 5, 5), (3, 2, 3, 3), 1, 1, 1, 1, "f4"),
        lambda problem: (values(problem), problem.geometry),
    ),
    RankMap: Made(lambda: RankMap([Place("here", 2, 2, 1)], [[0]]), RankMap.lines),
    MessageMemory: Made(MessageMemory, lambda scratch: scratch.take(64).nbytes),
    SentBytes: Made(SentBytes, values),
    Listener: Made(Listener, values),
    Reporter: Made(Reporter, values),
    Staleness: Made(lambda: Staleness(3), values),
    Status: Made(Status, values),
}


def _referring() -> tuple[nn.Module, Reference]:
    network = nn.ReLU()
    return network, Reference(network)


ALL = (
    {f"ConvPlan {name}": made for name, made in PLANS.items()}
    | {cls.__name__: made for cls, made in NETWORKS.items()}
    | {cls.__name__: made for cls, made in OTHERS.items()}
)


def child() -> None:
    """Unpickle objects that come in through stdin by their names, and tell what they do."""
    found = {}
    for name, pickled in pickle.load(sys.stdin.buffer).items():
        print(name, file=sys.stderr, flush=True)
        found[name] = ALL[name].behave(pickle.loads(pickled))
    sys.stdout.buffer.write(pickle.dumps(found))
