"""The settings of each SAE architecture that SAELens trains: names, types, what else is known of their values."""

from __future__ import annotations

CHOICES = {
    "normalize_activations": ("none", "expected_average_only_in", "layer_norm"),
    "jumprelu_sparsity_loss_mode": ("step", "tanh", "quadratic"),
}
ABOVE_ZERO = {"jumprelu_bandwidth", "jumprelu_tanh_scale", "decoder_init_norm", "lp_norm", "max_iterations"}
_SHARED: dict[str, type] = {"apply_b_dec_to_input": bool, "normalize_activations": str, "decoder_init_norm": float}
_L1 = {**_SHARED, "l1_coefficient": float, "l1_warm_up_steps": int}
_TOPK = {
    **_SHARED,
    "k": int,
    "aux_loss_coefficient": float,
    "rescale_acts_by_decoder_norm": bool,
}
_BATCH_TOPK = {**_TOPK, "k": float, "topk_threshold_lr": float}
_JUMPRELU = {
    **_SHARED,
    "jumprelu_init_threshold": float,
    "jumprelu_bandwidth": float,
    "jumprelu_sparsity_loss_mode": str,
    "l0_coefficient": float,
    "l0_warm_up_steps": int,
    "pre_act_loss_coefficient": float,
    "jumprelu_tanh_scale": float,
    "jumprelu_ste_to_input": bool,
    "target_l0": float,
}
_PURSUIT = {**_SHARED, "residual_threshold": float, "max_iterations": int, "stop_on_duplicate_support": bool}

ARCHITECTURES: dict[str, dict[str, type]] = {
    "standard": {**_L1, "lp_norm": float},
    "gated": _L1,
    "topk": _TOPK,
    "abstopk": _TOPK,
    "batchtopk": _BATCH_TOPK,
    "matryoshka_batchtopk": {**_BATCH_TOPK, "matryoshka_widths": list, "use_matryoshka_aux_loss": bool},
    "jumprelu": _JUMPRELU,
    "matching_pursuit": _PURSUIT,
}
"""SAELens' trainable architectures and their own settings (a test holds this to SAELens' registry), but for
`use_sparse_activations`: SAELens 6.54 can't train with it on a CPU."""
