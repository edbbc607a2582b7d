"""What each figure means, in a reader's words: (name, meaning) by the key under which it is stored."""

from __future__ import annotations

from sae_tools.reports.render import number, share

MEANINGS: dict[str, tuple[str, str]] = {
    "l0": ("L0", "latents that fire on a token, on average"),
    "explained_variance": ("Explained variance", "part of the activations' variance that the SAE rebuilds; 1 is all"),
    "ce_loss_score": ("CE recovered", "part of the model's skill that survives on rebuilt activations; 1 is all"),
    "kl_div_with_sae": ("KL with the SAE", "how far the spliced model's predictions are from the model's own, in nats"),
    "top1_agreement": ("Same next token", "how often the spliced model's likeliest next token is the model's"),
    "top5_agreement": ("Same five next tokens", "part of the five likeliest next tokens that are the model's"),
    "dead_share": ("Dead", "part of the latents that never fired on the tokens evaluated"),
    "freq_over_1_percent": ("Frequent", "part of the latents that fire on more than 1% of the tokens"),
    "freq_over_10_percent": ("Dense", "part of the latents that fire on more than 10% of the tokens"),
    "duplicate_share": (
        "Doubled",
        "part of the live latents with another of nearly the same direction (cosine > 0.9)",
    ),
    "ce_loss_without_sae": ("CE, model as it is", "cross-entropy in nats a token; lower is better"),
    "ce_loss_with_sae": ("CE with the SAE spliced in", "the same with the rebuilt activations"),
    "ce_loss_with_ablation": ("CE with the site zeroed", "the same with the activations set to zero"),
    "ce_loss_with_mean_ablation": ("CE with the site's mean", "the same with every activation set to their mean"),
    "ce_loss_score_over_mean_ablation": ("CE recovered, over the mean", "as CE recovered, measured from the mean"),
    "kl_div_score": ("KL recovered", "1 - KL with the SAE / KL with the site zeroed"),
    "kl_div_score_over_mean_ablation": ("KL recovered, over the mean", "the same, measured from the mean"),
    "kl_div_with_ablation": ("KL with the site zeroed", "in nats a token"),
    "kl_div_with_mean_ablation": ("KL with the site's mean", "in nats a token"),
    "cossim": ("Cosine", "between an activation and what the SAE makes of it; 1 is the same direction"),
    "cossim_p05": ("Cosine, 5th percentile", "5% of the tokens are rebuilt worse than this"),
    "cossim_p50": ("Cosine, median", ""),
    "cossim_p95": ("Cosine, 95th percentile", ""),
    "l0_p05": ("L0, 5th percentile", "5% of the tokens have fewer latents than this"),
    "l0_p50": ("L0, median", ""),
    "l0_p95": ("L0, 95th percentile", ""),
    "fvu": ("FVU", "fraction of variance unexplained: 1 - explained variance"),
    "explained_variance_legacy": ("Explained variance, old formula", "mean over tokens of ratios, as in older papers"),
    "r2_dimension_p05": ("R² of a dimension, 5th percentile", "how the worst twentieth of the dimensions is rebuilt"),
    "r2_dimension_p50": ("R² of a dimension, median", ""),
    "r2_dimension_p95": ("R² of a dimension, 95th percentile", ""),
    "mse": ("MSE", "squared error of the rebuilt activations, summed over their dimensions"),
    "l1": ("L1", "sum of a token's activations"),
    "l2_norm_in": ("Length", "of an activation"),
    "l2_norm_out": ("Length, rebuilt", "of what the SAE makes of it"),
    "l2_ratio": ("Length ratio", "of the rebuilt activations to the real ones; below 1 they are shrunk"),
    "relative_reconstruction_bias": ("Relative bias", "mean ‖x̂‖² / mean x·x̂; below 1 is shrunk"),
    "encoder_decoder_cosine_sim": ("Encoder and decoder", "cosine of a latent's two directions; 1 is tied"),
    "round_trip_share": ("Comes back first", "part of the latents that, decoded and encoded again, are the strongest"),
    "n_tokens": ("Tokens", "text tokens on which all this was measured"),
}
SHARES = {"top1_agreement", "top5_agreement", "dead_share", "duplicate_share", "freq_over_1_percent",
          "freq_over_10_percent", "round_trip_share"}  # fmt: skip


def shown(key: str, value: float) -> str:
    """A figure as a reader wants it: shares in percent, counts whole, others to three digits."""
    if key in SHARES:
        return share(value)
    return f"{value:,.0f}" if key == "n_tokens" else number(value)
