"""DistributedDataParallel around a converted model, and around its twin.  python RANK RANKS FILE"""

import copy
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import lowerconv as lc

rank, ranks, file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=ranks)
torch.manual_seed(1)
model = nn.Sequential(
    *(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU(), nn.AdaptiveAvgPool2d(1)),
    *(nn.Flatten(), nn.Linear(4, 5)),
).double()
twin = copy.deepcopy(model)
torch.manual_seed(10 + rank)  # other images on each rank
x, labels = torch.randn(6, 3, 8, 8).double(), torch.arange(6) % 5
ours = DistributedDataParallel(lc.torch.convert(model, x, strict=True))
theirs = DistributedDataParallel(twin)
for _ in range(3):
    for net in (ours, theirs):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), labels).backward()
        optimizer.step()
ours.eval(), theirs.eval()
torch.testing.assert_close(ours(x), theirs(x), rtol=1e-9, atol=1e-9)
for (name, a), b in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=name)
weights = [torch.empty_like(model[0].weight) for _ in range(ranks)]
dist.all_gather(weights, model[0].weight.detach())
assert all(torch.equal(weights[0], w) for w in weights)
dist.destroy_process_group()
print("right")
