"""Copies and pickles of every class: they do what the original does, or say what to do instead."""

import copy
import inspect
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowerconv
from lowerconv import nn
from tests import copied
from tests.copied import ALL, NETWORKS, OTHERS, plain, values
from tests.modules import importable

ROOT = Path(__file__).parents[1]

# Numbers, texts and arrays, that mean the same everywhere.
PLAIN = """
    arguments.Argument arguments.Ascending arguments.Choice arguments.Flag arguments.Integers
    arguments.Number
    arguments.Place arguments.Text bench.case.Options bench.cases.Layer bench.draw.Style
    bench.published.NetworkTime bench.result.Result bench.result.Row bench.step_picture.Bar
    cli.foretold.Foretold
    cli.network_inputs.Layout cli.tune.Layer codegen.isa.Isa conv.blas.blocking.Blocking
    conv.call.Call conv.call.Operand conv.depthwise.schedule.PlaneSchedule
    conv.executable.Options conv.phases.Convolution
    conv.phases.Phase conv.macrokernel.BlockOfK conv.macrokernel.Panels conv.macrokernel.Pixels
    conv.problem.Geometry conv.schedule.Schedule conv.schedule_weights.Pieces
    conv.schedule_weights.TapTile conv.schedule_weights.WeightSchedule
    conv.base_schedule.BaseSchedule conv.tiling.Tiling
    conv.tune.Candidate conv.window.Window
    conv.winograd.macrokernel.Channels conv.winograd.macrokernel.Tiles
    conv.winograd.schedule.Piece conv.winograd.schedule.TileSchedule
    conv.winograd.schedule_weights.SumSchedule data.ahead.Waiting data.folder.Listing
    data.frames.Frame data.loader.Batch data.loader.LoaderReport data.loader.LoaderState
    data.packing.Packed data.shards.Header data.spec.Spec data.writer.Record
    machine.topology.Cache machine.topology.NumaNode machine.topology.Package
    machine.topology.Topology machine.variables.Request nn.loss.LossResult nn.memory.Block
    nn.memory.MemoryReport nn.models.build.Layers nn.planning.Place parallel.comm.binding.Squeeze
    parallel.comm.choice.Chosen parallel.comm.rank_map.Place
    parallel.faults.stall.Answer parallel.sharding.layout.Layout parallel.sharding.layout.Segment
    parallel.sharding.layout.Samples parallel.sharding.rows.Part parallel.sharding.rows.RowWindow
    parallel.sharding.rows.Rows parallel.sharding.rows.Scale parallel.sharding.rows.Seam
    parallel.sharding.rows.Transfer parallel.sharding.sharded_layers.Sharding parallel.slurm.Job
    parallel.options.ParallelOptions parallel.trace.chrome.Event
    parallel.trace.chrome.RankTrace parallel.trace.chrome.Step parallel.trace.chrome.Trace
    parallel.trace.chrome.Transfer parallel.trace.clocks.Alignment parallel.trace.clocks.Reading
    parallel.trace.summary.Summary runtime.records.Operands train.checkpoint.Checkpoint
    nn.conv_pieces.Piece nn.convolve_nd.WindowArguments nn.optim.optimizer.Weights
    codegen.activation.Activation codegen.dots.Dot codegen.dots.Words conv.words.tile_weights.Axis
    conv.words.tile_weights.WordPlanes
    conv.word_format.WordFormat conv.words.ternary_schedule.TernarySchedule
    ops.ternary_codes.TernaryCodes ops.transpose.Gather conv.blas.im2col.Block nn.windows.Windows
    bench.microkernels.Chains bench.microkernels.Repeat
    ops.fixed_point.Rounding quant.fixed_point.FixedPoint quant.fixed_point.RoundedUpdates
    quant.options.Quantization train.inputs.Inputs train.loop.EpochCounts train.metrics.EpochMetrics
    train.settings.Settings
    nn.codes.WeightCodes ops.codes.Scaled ops.codes.Rounding onnx.qdq.Codes onnx.qdq.Form
    quant.conv.Epilogue quant.conv.Filters quant.params.QuantParams quant.places.Place
    quant.store.Stored train.initial.InitialWeights
    predict.calibration.Calibration predict.calibration.Crowd predict.calibration.LayerSeconds
    predict.calibration.LinkSeconds predict.calibration.NetworkFacts
    predict.calibration.ParameterFacts predict.calibration.StepSeconds
    predict.replay.Compute predict.replay.Look predict.replay.Message predict.replay.Wait
    predict.network.buckets.Bucket predict.network.compact.Phase predict.network.event_heap.Clock
    predict.network.dragonfly.Dragonfly predict.network.fair_sharing.Sharing
    predict.network.fat_tree.FatTree predict.network.flows.FlowGraph
    predict.network.flows.Timeline predict.network.schedule.Schedule predict.network.switch.Switch
    predict.network.topology.LinkGroup predict.network.topology.Routes predict.network.torus.Torus
""".split()  # noqa: SIM905

# Of signatures and records: all of their modules.
GROUPS = (
    "codegen.signatures.",
    "conv.blas.panels.",
    "conv.depthwise.macrokernel.",
    "conv.macrokernel_weights.",
    "conv.records.",
    "conv.winograd.records.",
    "conv.words.ternary_nest.",
    "conv.words.tile_weights_nest.",
    *("predict.collective_costs.", "predict.resources.", "predict.stages.", "predict.step."),
    *("predict.programs.", "predict.recorded.", "predict.split.", "predict.network.rounds."),
    *("ops.batch_norm", "ops.blocks.", "ops.elementwise.", "ops.images.", "ops.max_pool."),
    *("ops.normalise.", "ops.response_norm.", "ops.windows."),
)

# Not made here, and why they need not be.
ELSEWHERE = {
    # what others derive from, or only describe
    "data.source.Source": "a protocol",
    "data.frames.Frames": "a protocol",
    "data.frames.Taker": "a protocol",
    "cli.frame_networks.Answerer": "a protocol",
    "parallel.comm.waiting.Patience": "a protocol",
    "nn.step.Reducer": "a protocol",
    "predict.network.topology.Topology": "the base of topologies",
    "predict.network.recording.SizedArray": "a size, while a collective is recorded",
    "codegen.half_arrays.HalfArray": "a type of numba's",
    "codegen.kernel.Kernel": "a base class",
    "conv.algorithm.Algorithm": "functions, that pickle where they have a name",
    "console.PlainConsole": "a console of rich, with another way to print",
    "arguments.Kind": "what all kinds derive from",
    "data.oddities.Oddities": "counts and names, told at once",
    "nn.attributes.Attributes": "the base of modules",
    "nn.module.Module": "the base of modules",
    "nn.layer.Layer": "the base of layers",
    "nn.optim.optimizer.Optimizer": "the base of optimizers",
    "nn.optim.optimizer.UpdateRounding": "a protocol",
    "quant.fake_quant.FakeQuantLayer": "the base of quantized layers",
    "quant.fake_quant.WeightQuantizer": "the base of quantizers",
    "quant.learned_step.LearnedStepWeights": "numbers, copied with their layers",
    "quant.ternary.TernaryWeights": "nothing of its own",
    "nn.execution_order.ExecutionOrder": "an enumeration",
    # what has nothing of its own beside objects that are tested here
    "nn.step.Step": "numbers and a communicator",
    "nn.models.Model": "a function and numbers",
    "parallel.sharding.sharded_layers.Shard": "layers and shardings",
    "parallel.sharding.batch_exchange.Chunk": "ranges",
    "train.setup.Setup": "settings, a network and data sets",
    "bench.case.Case": "functions, that pickle where they have a name",
    "bench.study.Study": "functions, that pickle where they have a name",
    "cli.bench.Job": "a study and results",
    "codegen.microkernel_requantize.RequantizingMicrokernel": "made as a Microkernel is",
    "codegen.microkernel_bf16.Bf16Microkernel": "made as a Microkernel is",
    "codegen.stored_sums.RequantizedSums": "made as a Microkernel is",
    "codegen.stored_sums.StoredSums": "made as a Microkernel is",
    "codegen.ternary.TernaryKernel": "made as a Microkernel is",
    "codegen.ternary.WideningKernel": "made as a Microkernel is",
    "codegen.microkernel.Geometry": "values of a function that is being written",
    "codegen.microkernel.Store": "values of a function that is being written",
    "codegen.amx.Panels": "values of a function that is being written",
    "codegen.scalable.Scalable": "a type of a function that is being written",
    "codegen.depthwise.PlaneKernel": "made as a Microkernel is",
    "codegen.depthwise_in_place.GradientInPlace": "made as a Microkernel is",
    "codegen.depthwise_in_place.ResultsInPlace": "made as a Microkernel is",
    "codegen.planes.InPlaceKernel": "what those two are made from",
    "codegen.planes.Line": "values of a function that is being written",
    "codegen.planes.Geometry": "values of a function that is being written",
    "codegen.planes.Rows": "values of a function that is being written",
    "codegen.planes.Vector": "values of a function that is being written",
    "codegen.depthwise_small.SmallPlaneKernel": "made as a Microkernel is",
    "data.frames.FolderFrames": "paths",
    "codegen.pooling.PoolKernel": "made as a Microkernel is",
    # made while a network is recorded, and never part of one
    "nn.linear.PackedLinear": "a Linear, made for one program",
    "nn.combine.View": "a shape",
    "nn.computed.Computed": "functions, that pickle where they have a name",
    "nn.functional.reductions.Reduction": "a Computed",
    "nn.functional.placed.Joined": "a Computed",
    "nn.functional.placed.Placed": "a Computed",
    "nn.functional.shapes.Transpose": "a Computed",
    "nn.functional.shapes.ZeroPadding": "a Computed",
    "onnx.half.Rounded": "a Computed",
    # of ONNX files
    "nn.export.Writer": "protocol buffers of a file that is being made",
    "onnx.backend.Backend": "class methods alone",
    "onnx.backend.BackendRep": "a network",
    "onnx.network.OnnxNetwork": "copied in tests/onnx",
    "onnx.registry.Node": "copied with its network",
    "onnx.registry.Body": "copied with its network",
    "onnx.fallback.Elsewhere": "copied in tests/onnx",
    "onnx.registry.Operator": "functions, that pickle where they have a name",
    "onnx.contents.Division": "nodes",
    "onnx.operators.recurrent.Cell": "functions and arrays of one call",
    "nn.explain.Explanation": "numbers and texts",
    "nn.explain.LayerReport": "numbers and texts",
    # of microkernels that are timed
    # of integer networks
    "quant.chains.Chain": "nodes of a graph",
    "quant.to_integers.Source": "a value of a graph",
    "quant.qdq_placement.QdqPlacement": "nodes of a graph",
    "quant.observe.Observer": "counts of a calibration",
    **dict.fromkeys(
        """quant.convert.Dequantize quant.convert.FromWords quant.convert.Pack
        quant.convert.Quantize quant.convert.Unpack quant.convert.WordLayer
        quant.conv.IntegerConv2d quant.integer_layers.Clipped
        quant.integer_layers.IntegerAdd quant.integer_layers.IntegerAvgPool2d
        quant.integer_layers.IntegerResponseNorm
        quant.integer_layers.IntegerConcat quant.integer_layers.IntegerMaxPool2d
        quant.integer_layers.Lookup quant.qdq.DequantizeLinear
        quant.qdq.QuantizeLinear quant.network.IntegerNetwork
        quant.places.Reshaped""".split(),  # noqa: SIM905
        "copied in tests/quant",
    ),
    # modules that are nothing but their children
    **dict.fromkeys(
        """nn.models.alexnet.AlexNet nn.models.googlenet.ConvReLU nn.models.googlenet.Inception
        nn.models.googlenet.Auxiliary nn.models.googlenet.GoogLeNet
        nn.models.inception_v3.ConvNormReLU nn.models.inception_v3.Block
        nn.models.inception_v3.InceptionA nn.models.inception_v3.InceptionB
        nn.models.inception_v3.InceptionC nn.models.inception_v3.InceptionD
        nn.models.inception_v3.InceptionE nn.models.inception_v3.InceptionAux
        nn.models.inception_v3.InceptionV3 nn.models.resnet.BasicBlock nn.models.resnet.Bottleneck
        nn.models.resnet.ResNet nn.models.vgg.VGG""".split(),  # noqa: SIM905
        "children only",
    ),
}


def all_classes() -> dict[str, type]:
    """Return the public classes of the package by the names of their modules and their own."""
    found = {}
    others = ("lowerconv.torch", "lowerconv.sklearn")  # copied in tests/torch and test_sklearn
    for module in importable():
        if module.__name__.startswith(others):
            continue
        for name, cls in vars(module).items():
            if inspect.isclass(cls) and cls.__module__ == module.__name__ and name[0] != "_":
                found[f"{module.__name__}.{name}".removeprefix("lowerconv.")] = cls
    return found


CLASSES = all_classes()
PLAIN += [name for name in CLASSES if name.startswith(GROUPS)]
MADE = {*NETWORKS, *OTHERS, lowerconv.ConvPlan}
ERRORS = {name: cls for name, cls in CLASSES.items() if issubclass(cls, BaseException)}


def bare(cls: type) -> Any:
    """Return an object of a class that has not been initialised."""
    if issubclass(cls, tuple):
        return tuple.__new__(cls, range(len(cls._fields)))  # type: ignore[attr-defined]
    return cls.__new__(cls)


WAYS = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": pickle.dumps}


def refuses(cls: type) -> bool:
    """Return whether a class says that it cannot be copied, in all ways."""
    said = set()
    for way in WAYS.values():
        try:
            way(bare(cls))
            said.add(False)
        except TypeError as error:
            said.add("can be neither copied nor pickled" in str(error))
        except Exception:  # of an object that is not complete
            said.add(False)
    assert len(said) == 1, f"{cls.__name__} is refused in some ways only"
    return said.pop()


REFUSED = {name for name, cls in CLASSES.items() if cls not in MADE and refuses(cls)}


def test_every_class_has_been_thought_of():
    made = {name for name, cls in CLASSES.items() if cls in MADE}
    groups = [set(PLAIN), set(ELSEWHERE), set(ERRORS), made, REFUSED]
    assert len(made) == len(MADE)
    assert sum(map(len, groups)) == len(set.union(*groups)), "a class is in two groups"
    assert set.union(*groups) == set(CLASSES), (
        "a class of which nobody has decided whether it can be copied: add it to PLAIN, ELSEWHERE "
        "or copied.py, or let it refuse with `not_copied`"
    )


def test_what_refuses_says_what_to_do():
    assert len(REFUSED) > 40
    for name in REFUSED:
        with pytest.raises(TypeError, match=r"to this process: \S+"):
            copy.deepcopy(bare(CLASSES[name]))


@pytest.mark.parametrize("name", PLAIN)
def test_plain_values(name):
    thing = plain(CLASSES[name])
    for other in (copy.copy(thing), copy.deepcopy(thing), pickle.loads(pickle.dumps(thing))):
        assert type(other) is type(thing)
        assert values(other) == values(thing)


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    error = ERRORS[name]("what happened")
    for other in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(other) is type(error)
        assert str(other) == str(error)


@pytest.mark.parametrize("name", ALL)
def test_copies_do_what_the_original_does(name):
    make, behave = ALL[name]
    thing = make()
    deep, pickled = copy.deepcopy(thing), pickle.loads(pickle.dumps(thing))
    alone = thing[-1] if type(thing) is tuple else thing
    if isinstance(alone, (nn.Optimizer, copied.WeightAverage)):
        with pytest.raises(TypeError, match="shallow copy"):
            copy.copy(alone)
    else:
        shallow = copy.copy(alone)
        both = (*thing[:-1], shallow) if type(thing) is tuple else shallow
        np.testing.assert_equal(behave(both), behave(thing))
        thing = copy.deepcopy(deep)  # with which nothing has been done yet
    expected = behave(thing)
    np.testing.assert_equal(behave(deep), expected)
    np.testing.assert_equal(behave(pickled), expected)


@pytest.fixture(scope="module")
def elsewhere() -> dict[str, tuple[Any, Any]]:
    """Return what each object does here, and what it does when it is unpickled elsewhere."""
    things = {name: made.make() for name, made in ALL.items()}
    pickled = {name: pickle.dumps(thing) for name, thing in things.items()}
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests import copied"
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", f"{program}; copied.child()"],
        input=pickle.dumps(pickled),
        capture_output=True,
        env=os.environ | {"PYTHONPATH": path},
        timeout=600,
    )
    messages = done.stderr.decode()
    assert done.returncode == 0, f"return code {done.returncode} in {messages[-2000:]}"
    theirs = pickle.loads(done.stdout)
    return {name: (ALL[name].behave(thing), theirs[name]) for name, thing in things.items()}


@pytest.mark.parametrize("name", ALL)
def test_another_process_does_the_same(elsewhere, name):
    ours, theirs = elsewhere[name]
    np.testing.assert_equal(theirs, ours)
