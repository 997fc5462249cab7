"""Run by mpiexec: a network from an ONNX file is trained to the end of an epoch.

``onnx_trainer.py MODEL.onnx DATA OUT EPOCHS [resume]``; rank 0 prints whether all ranks have the
same weights.
"""

import sys

import lowerconv.onnx
from lowerconv.parallel import world
from lowerconv.parallel.options import ParallelOptions
from lowerconv.train import Trainer
from lowerconv.train.checkpoint import state

model, data, out, epochs, *resume = sys.argv[1:]
trainer = Trainer(
    lowerconv.onnx.load(model, trainable=True),
    data,
    out,
    resume=bool(resume),
    parallel=ParallelOptions(deterministic=True),
    **{"epochs": int(epochs), "batch": 32, "lr": 0.02, "schedule": "constant", "seed": 1},
)
history = trainer.fit()
weights = {name: array.tobytes() for name, array in state(trainer.network).items()}
gathered = world().gather(weights)
if world().rank == 0:
    assert all(other == weights for other in gathered)
    trainer.network.save_onnx(f"{out}.onnx")
    print("the same on", len(gathered), "ranks after", len(history), "epochs")
