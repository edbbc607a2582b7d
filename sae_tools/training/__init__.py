"""Rows to SAEs: `train` is the loop, `trainee` an SAE in it, `steps` its gradients, `crosscoder` two models', `divided`
one among processes.

Uses `common`, `activations`, `saes` and `metrics`; knows no language model and nothing of `analysis`. An architecture
of one's own goes into `variants`, a faster rule for one of SAELens' into a `*_step` file that `steps` names.
"""
