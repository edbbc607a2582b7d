"""Rows to SAEs: `train` is the loop, `trainee` one SAE in it, `steps` a step's loss and gradients.

Uses `common`, `saes` and `metrics`; knows no language model and nothing of `analysis`. An architecture of one's own
goes into `variants`, a faster rule for one of SAELens' into a `*_step` file that `steps` names.
"""
