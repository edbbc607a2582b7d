"""What is measured: pure functions, each with its formula and its source; SAELens' names mean what they mean there.

Uses `common` alone, and touches no file. A new figure goes where its inputs are: sums over many batches in `averages`,
activations and their reconstruction in `reconstruction`, logits in `predictions`, an SAE's weights in `dictionary`;
of two models: activations in `alignment`, features in `paired`, one dictionary over both in `crosscoder`.
"""
