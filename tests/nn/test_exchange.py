"""Weights to and from safetensors files and state_dicts of PyTorch."""

import random
import re

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lowerconv import nn
from lowerconv.nn.exchange import WeightsError, load_weights, save_weights

COUNTER = "1.num_batches_tracked"


def small(seed=0):
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5)
    )
    rng = np.random.default_rng(seed)
    for array in arrays(network).values():
        array[...] = rng.uniform(0.5, 1.5, array.shape)
    return network


def arrays(network):
    parameters = {name: parameter.data for name, parameter in network.parameters().items()}
    return parameters | network.buffers()


def copies(network):
    return {name: array.copy() for name, array in arrays(network).items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].tobytes() == array.tobytes(), name


def test_what_is_saved_is_loaded(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(small(), path)
    network = small(seed=1)
    load_weights(network, path)
    assert_same(arrays(network), copies(small()))
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_file_has_the_names_of_pytorch(tmp_path):
    save_weights(small(), tmp_path / "w.safetensors")
    found = load_file(tmp_path / "w.safetensors")
    assert sorted(found) == [
        "0.bias",
        "0.weight",
        "1.bias",
        COUNTER,
        "1.running_mean",
        "1.running_var",
        "1.weight",
        "4.bias",
        "4.weight",
    ]
    assert found[COUNTER].shape == () and found[COUNTER].dtype == np.int64


def test_parameters_stay_where_they_are():
    network = small()
    optimizer = nn.SGD(network, lr=0.1)
    load_weights(network, copies(small(seed=1)))
    flat = np.concatenate([p.data.reshape(-1) for p in network.parameters().values()])
    assert np.array_equal(optimizer.data, flat)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floating_point_numbers_are_converted(dtype, tmp_path):
    stored = {name: array.astype(dtype) for name, array in copies(small(seed=1)).items()}
    save_file(stored, tmp_path / "w.safetensors")
    for source in (tmp_path / "w.safetensors", stored):
        network = small()
        load_weights(network, source)
        assert_same(arrays(network), {k: v.astype(np.float32) for k, v in stored.items()})


def test_bfloat16_is_read_exactly(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    stored = {k: torch.from_numpy(v).bfloat16() for k, v in copies(small(seed=1)).items()}
    save_file(stored, tmp_path / "w.safetensors")
    network = small()
    load_weights(network, tmp_path / "w.safetensors")
    assert_same(arrays(network), {k: v.float().numpy() for k, v in stored.items()})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"0.weight": None}, "has no tensor '0.weight', expected by the network"),
        ({"1.running_var": None}, "has no tensor '1.running_var'"),
        ({"9.weight": np.ones(3, np.float32)}, "has tensor '9.weight', which the network has not"),
        (
            {"4.weight": np.ones((16, 5), np.float32)},
            "tensor '4.weight': got shape (16, 5), expected (5, 16)",
        ),
        (
            {"0.bias": np.ones(4, np.int32)},
            "tensor '0.bias': got numbers of type ",
        ),
        (
            {"0.bias": np.array([1, 2, 3, -1e39])},
            "tensor '0.bias': got float64 numbers up to 1e+39, expected no larger than 3.40282e+38",
        ),
    ],
    ids=["missing", "missing-buffer", "unknown", "shape", "integers", "overflow"],
)
def test_what_does_not_fit_changes_nothing(changes, message, tmp_path):
    stored = {k: v for k, v in (copies(small(seed=1)) | changes).items() if v is not None}
    path = tmp_path / "w.safetensors"
    save_file(stored, path)
    for source, where in ((stored, "weights"), (path, str(path))):
        network = small()
        with pytest.raises(WeightsError, match=f"^{re.escape(where)}: .*{re.escape(message)}"):
            load_weights(network, source)
        assert_same(arrays(network), copies(small()))


def test_many_names_are_not_all_told():
    with pytest.raises(WeightsError, match=r"'1.weight', '1.bias'.* and 3 more, expected"):
        load_weights(small(), {})


def test_what_is_no_array_is_refused():
    for value, found in (("four", "numbers of type <U4"), ([1.0, [2.0]], "list")):
        with pytest.raises(WeightsError, match=f"tensor '0.bias': got {found}"):
            load_weights(small(), copies(small()) | {"0.bias": value})


def test_infinities_stay():
    stored = copies(small()) | {"0.bias": np.array([np.inf, -np.inf, np.nan, 0])}
    network = small()
    load_weights(network, stored)
    assert arrays(network)["0.bias"].tolist()[:2] == [np.inf, -np.inf]


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "w.pth"
    for content in (b"", b"PK\x03\x04" + bytes(100), b"\x80\x02}q\x00."):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"w\.pth: not a readable safetensors file"):
            load_weights(small(), path)
    with pytest.raises(FileNotFoundError):
        load_weights(small(), tmp_path / "none.safetensors")


def test_damage_is_noticed_or_harmless(tmp_path):
    """A byte changed or the end cut off: the same weights as before, or an error."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    path = tmp_path / "w.safetensors"
    save_weights(small(seed=1), path)
    whole = path.read_bytes()
    refused = 0
    for _ in range(200):
        damaged = bytearray(whole)
        if rng.random() < 0.2:
            del damaged[rng.randrange(len(whole)) :]
        else:
            damaged[rng.randrange(len(whole))] ^= rng.randrange(1, 256)
        path.write_bytes(damaged)
        network = small()
        try:
            load_weights(network, path)
        except WeightsError as error:
            assert str(path) in str(error)
            assert_same(arrays(network), copies(small()))
            refused += 1
        else:
            assert_same(arrays(network), copies(small(seed=1)))
    assert refused > 100


class Shared(nn.Module):
    """One block under two names."""

    def __init__(self):
        super().__init__()
        self.left = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm2d(3))
        self.right = self.left
        self.head = nn.Linear(3, 2)


def test_what_is_shared_has_all_its_names_in_files(tmp_path):
    """As in PyTorch's state_dict, which has to find all of them; one is enough to be read."""
    network = Shared()
    network.save(tmp_path / "w.safetensors")
    stored = load_file(tmp_path / "w.safetensors")
    for name in ("0.weight", "0.bias", "1.weight", "1.running_mean", "1.num_batches_tracked"):
        assert np.array_equal(stored[f"left.{name}"], stored[f"right.{name}"])
    once = {name: array for name, array in stored.items() if not name.startswith("left")}
    for weights in (tmp_path / "w.safetensors", stored, once, copies(network)):
        other = Shared()
        other.load(weights)
        assert_same(arrays(other), copies(network))
    before = copies(network)
    with pytest.raises(WeightsError, match=r"'left\.0\.weight' and 'right\.0\.weight' differ"):
        network.load(stored | {"right.0.weight": stored["left.0.weight"] + 1})
    without = {name: array for name, array in once.items() if name != "right.0.weight"}
    with pytest.raises(WeightsError, match=r"no tensor 'left\.0\.weight'"):
        network.load(without)
    with pytest.raises(WeightsError, match=r"has tensor 'middle\.0\.weight'"):
        network.load(stored | {"middle.0.weight": stored["left.0.weight"]})
    assert_same(arrays(network), before)
