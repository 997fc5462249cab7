"""What the tables tell, from times that are made up."""

import dataclasses
import io

import pytest
from rich.console import Console

from lowerconv.bench import alexnet, precision, roofline, training
from lowerconv.bench.result import Row, least_gain, mean_gain, mean_share, total
from lowerconv.bench.show import disturbance, ms, percent, times
from lowerconv.bench.tables import TABLES
from lowerconv.bench.threads import speed_up, thread_counts

from .made_up import MS, PEAK, made_up


def lines(table, **options):
    """Return what is printed of a result, white space made single."""
    result = made_up(table, **options)
    console = Console(width=100, file=io.StringIO())
    for part in TABLES[table].tables(result):
        console.print(part)
    printed = console.file.getvalue() + "\n".join(TABLES[table].notes(result))
    assert "…" not in printed
    return [" ".join(line.split()) for line in printed.splitlines()]


def row(others=0.0, **seconds):
    return Row({"layer": "a"}, seconds, {"flops": 1e9, "others": others})


def test_gains_are_medians_over_rounds():
    one = row(lowering=[2.0, 4.0, 9.0], fused=[1.0, 4.0, 3.0])
    assert one.gain("fused") == 2.0  # of 2, 1 and 3
    assert one.gain("lowering") == 1.0
    assert one.gain("direct") is None
    assert row(fused=[1.0]).gain("fused") is None
    assert one.speed("fused") == 1e9 / 3
    assert one.median("lowering") == 4.0


def test_means_over_rows():
    rows = [row(lowering=[2.0], fused=[1.0]), row(lowering=[8.0], fused=[1.0]), row(lowering=[1.0])]
    assert mean_gain(rows, "fused") == pytest.approx(4.0)
    assert least_gain(rows, "fused") == (2.0, rows[0])
    assert mean_gain(rows, "direct") is least_gain(rows, "direct") is None
    assert mean_share(rows[:2], "fused", 4e9) == pytest.approx(0.25)
    assert mean_share(rows[2:], "fused", 4e9) is None
    assert total(rows, "lowering") == 11.0
    assert total(rows, "fused") is None


def test_numbers():
    assert [ms(s / 1e3) for s in (0.0123, 1.234, 12.34, 999.4, 12345.6)] == [
        *("0.012", "1.23", "12.3", "999", "12346")
    ]
    assert (ms(None), times(None), percent(None)) == ("-", "-", "-")
    assert (times(1.645), percent(0.845)) == ("1.65", "84%")


def test_disturbances_are_named_by_what_differs():
    calm = [Row({"network": "n", "layer": name}, {}, {"others": 0.05}) for name in "abcdef"]
    assert disturbance(calm) == "no other process disturbed it"

    def disturb(count):
        changed = [dataclasses.replace(r, facts={"others": 0.7}) for r in calm[:count]]
        return disturbance(changed + calm[count:])

    assert disturb(2).endswith("other processes used up to 0.7 cores during a, b")
    assert disturb(5).endswith("during 5 of 6 rows")
    assert disturbance([dataclasses.replace(calm[0], facts={"others": 2.0})]).endswith("all of it")


def test_cifar10():
    printed = lines("cifar10")
    # 1.31 GFLOP in 1 ms are 131% of a made-up peak of 1 TFLOP/s.
    assert "conv2_P 1,311 16.0 (0.25) 4.00 2.00 (2.00) 1.00 (4.00) 131%" in printed
    assert "sum_BP 4,915 48.0 (0.25) 12.0 6.00 (2.00) 3.00 (4.00)" in printed
    assert "Maker 9999, 3 threads, batch 100" in printed
    assert "FMA peak of this run: 1000 GFLOP/s; fused: 106% of it (geometric mean)" in printed
    assert "no other process disturbed it" in printed


def test_googlenet():
    printed = lines("googlenet")
    assert sum(line.startswith("GoogLeNet, ") for line in printed) == 3
    # The published speed-up stands beside ours; the loop nest is too slow.
    assert printed.count("conv2-3x3 22,196 4.00 1.16 2.00 4.00 - 2220%") == 3
    assert any(line.startswith("5b-5x5 ") and " 0.04 2.00 4.00 0.25 " in line for line in printed)
    assert printed.count("geometric mean 2.00 4.00 0.25") == 3
    assert any(
        line.startswith("-: the loop nest (direct) is left out above 2 GFLOP") for line in printed
    )


def test_alexnet():
    printed = lines("alexnet")
    # Five convolutions and the others: forward and backward, each three algorithms.
    assert "others 3.00 3.00 3.00 3.00 3.00 3.00" in printed
    assert "convolutions 20.0 20.0 10.0 10.0 5.00 5.00" in printed
    assert "whole network 23.0 23.0 13.0 13.0 8.00 8.00" in printed
    assert "Torch-7 (im2col + GEMM) Titan X, 2016 132 210 342 21.38" in printed
    assert "lowering this machine 23.0 23.0 46.0 2.88" in printed
    assert "fused this machine 8.00 8.00 16.0 1.00" in printed
    assert any(line.startswith("-: the loop nest (direct) is left out") for line in printed)


def test_alexnet_in_part_is_not_compared_with_the_whole():
    assert alexnet.whole_network(made_up("alexnet", layers="conv")) == []
    assert alexnet.whole_network(made_up("alexnet", layers="[2345]|others")) == []
    printed = lines("alexnet", layers="conv1")
    assert "whole network - - - - - -" in printed
    assert not any("Titan X" in line for line in printed)


def test_alexnet_of_another_batch_is_not_compared_with_the_published_one():
    printed = lines("alexnet", batch=64)
    assert "fused this machine 8.00 8.00 16.0 1.00" in printed
    assert not any("Titan X" in line for line in printed)
    assert "published: the whole network, batch 128" in printed


def test_alexnets_other_layers_have_the_shapes_of_the_network(monkeypatch):
    assert alexnet.HIDDEN == 4096
    monkeypatch.setattr(alexnet, "HIDDEN", 40)
    blocks = alexnet.other_layers()
    assert [shape for _, shape in blocks] == [
        *((64, 55, 55), (192, 27, 27), (384, 13, 13), (256, 13, 13), (256, 13, 13))
    ]
    sizes = [p.data.shape for p in blocks[-1][0].parameters().values() if p.data.ndim == 2]
    assert sizes == [(40, 9216), (40, 40), (1000, 40)]


def test_threads():
    printed = lines("threads", batch=2, layers="conv[123]$|4a")
    assert "network pass algorithm ms 2 3 at 3" in printed
    assert "cifar10_quick forward simple (direct) 18.0 2.00 3.00 1%" in printed
    # None of these layers is too large for the loop nest; of all of them, some are.
    assert any(line.startswith("googlenet forward simple (direct)") for line in printed)
    printed = lines("threads")
    assert not any(line.startswith("googlenet forward simple (direct)") for line in printed)
    assert "googlenet: the loop nest (direct) is left out, as too slow" in printed
    assert "googlenet backward fused 120 2.00 3.00 500%" not in printed  # 20 layers, 6 ms each
    assert any(line.startswith("googlenet backward fused 120 2.00 3.00") for line in printed)


def test_thread_counts():
    assert thread_counts(1) == [1]
    assert thread_counts(3) == [1, 2, 3]
    assert thread_counts(8) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert thread_counts(64) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    assert thread_counts(20) == [1, 2, 3, 4, 6, 8, 12, 16, 20]
    assert speed_up(made_up("threads", layers="conv1").rows, "7") is None


def test_training():
    result = made_up("training")
    assert sum(training.shares(result.rows[0], "auto").values()) == pytest.approx(1.0)
    printed = lines("training")
    # Half of 4 ms for 1 GFLOP: half of the peak.
    assert "lenet, 64 lowering 4.00 50% 8% 8% 8% 8% 8% 8% 50%" in printed
    assert "cifar10_quick, 50 auto 5.00 50% 8% 8% 8% 8% 8% 8% 40%" in printed
    assert "published 84% - - - - - -" in printed
    assert "Maker 9999, 3 threads, each network's own batch" in printed
    assert "lenet, 7 auto" in " ".join(lines("training", batch=7))


def test_roofline():
    result = made_up("roofline")
    assert roofline.bandwidth(result) == 5e10
    assert roofline.roof(result, 4.0) == 2e11
    assert roofline.roof(result, 1000.0) == PEAK
    printed = lines("roofline")
    dw2 = next(line for line in printed if line.startswith("dw2 "))  # 32 channels of 112x112
    work, items = 2 * 32 * 32 * 112 * 112 * 9, 32 * 32 * 112 * 112 * 2 + 32 * 9
    intensity = work / (4 * items)
    speed = work / (MS["fused"] / 1e3)
    share = speed / (5e10 * intensity)
    assert dw2.startswith(f"dw2 {intensity:.1f} {5e10 * intensity / 1e9:.0f} ")
    assert f" {speed / 1e9:.1f} ({share:.0%})" in dw2
    assert any(
        "50 GB/s triad; the larger one is the roof up to 20.0 FLOP/byte" in x for x in printed
    )


def test_fewer_bits():
    result = made_up("precision")
    assert (precision.peak(result, "int8"), precision.peak(result, "ternary")) == (4e12, 4e12)
    # Where products of bf16 are slower than converting it.
    assert precision.peak(result, "bf16") == precision.peak(result, "fp16") == 1e12
    assert precision.roof(result, "int8", 10.0) == 5e11
    printed = lines("precision")
    # 8 GFLOP and 80 MB in 8 ms; 20 MB in 2 ms.
    assert "resnet20 float32 8.00 1000.0 1.00 16.0 100 1000 100%" in printed
    assert "resnet20 int8 2.00 4000.0 4.00 16.0 400 4000 100%" in printed
    assert any(
        line.startswith("roofs: register tiles in L1, Gop/s: float32 1000") for line in printed
    )
