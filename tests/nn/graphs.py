"""Random networks with branches, for tests of what is done to graphs."""

from __future__ import annotations

import numpy as np

from lowerconv import nn


class RandomNetwork(nn.Module):
    """A network whose layers, branches, sums and concatenations follow from a seed."""

    def __init__(self, seed: int, nodes: int, channels: int = 3, dtype=np.float64) -> None:
        super().__init__()
        self.seed = seed
        self.count = nodes
        rng = np.random.default_rng(seed)
        self.plan: list[tuple] = []
        widths = [channels]
        for i in range(nodes):
            kind = str(
                rng.choice(["conv", "conv", "relu", "pool", "drop", "concat", "add", "norm"])
            )
            a = int(rng.integers(max(0, len(widths) - 4), len(widths)))
            width = widths[a]
            if kind == "conv":
                K = int(rng.integers(1, 6))
                size = int(rng.choice([1, 3]))
                bias = bool(rng.integers(2))
                layer = nn.Conv2d(width, K, size, padding=size // 2, bias=bias, dtype=dtype)
                setattr(self, f"conv{i}", layer)
                self.plan.append((kind, a, layer))
                width = K
            elif kind == "norm":
                layer = nn.BatchNorm2d(width, dtype=dtype)
                setattr(self, f"norm{i}", layer)
                self.plan.append((kind, a, layer))
            elif kind == "pool":
                self.plan.append((kind, a, nn.MaxPool2d(3, 1, 1)))
            elif kind == "drop":
                self.plan.append((kind, a, nn.Dropout(0.3)))
            elif kind == "relu":
                self.plan.append((kind, a, nn.ReLU()))
            elif kind == "concat":
                others = [int(i) for i in rng.integers(0, len(widths), int(rng.integers(1, 4)))]
                self.plan.append((kind, a, others))
                width += sum(widths[i] for i in others)
            else:
                same = [i for i, other in enumerate(widths) if other == width]
                self.plan.append((kind, a, int(rng.choice(same))))
            widths.append(width)
        self.outputs = 1 + int(rng.integers(3) == 0)
        self.head = nn.Linear(widths[-1], 3, dtype=dtype)

    def forward(self, x):
        values = [x]
        for kind, a, what in self.plan:
            if kind == "concat":
                values.append(nn.concat(values[a], *(values[i] for i in what)))
            elif kind == "add":
                values.append(values[a] + values[what])
            else:
                values.append(what(values[a]))
        scores = self.head(nn.flatten(nn.GlobalAvgPool2d()(values[-1])))
        return (scores, values[len(values) // 2]) if self.outputs > 1 else scores
