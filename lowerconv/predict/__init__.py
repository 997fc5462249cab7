"""How long training will take, before it is tried: from short measurements, by the engine's rules.

Modules are imported by their names: `calibration` and `calibrate` have what was measured, `step`
predicts a step, `resources` compares numbers of ranks and batches, and `network` simulates sums on
clusters that are described, not used.
"""
