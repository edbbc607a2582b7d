"""TopK whose k falls from `k_start_factor` times k to k, linearly over the first `k_anneal_share` of training.

Early on more latents fire for each sample, so more of them get gradients and fewer die; saved as a plain TopK SAE.

An example of an SAE of one's own. In params.yaml: `architecture: sae_tools.training.variants.annealed_topk`. Importing
this file registers the class with SAELens under the file's name. The training loop calls `before_step` if a class has
it; as no formula of TopK is changed, the sparse step of TopK is used.
"""

from __future__ import annotations

from dataclasses import dataclass

from sae_tools.saes import TopKSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig, register


@dataclass
class AnnealedTopKConfig(TopKTrainingSAEConfig):  # type: ignore[misc]
    k_start_factor: float = 4.0
    """k at the first step is this many times k."""
    k_anneal_share: float = 0.3
    """Share of the steps after which k has its final value."""

    @classmethod
    def architecture(cls) -> str:
        return "annealed_topk"

    def get_inference_config_class(self) -> type[TopKSAEConfig]:
        return TopKSAEConfig  # type: ignore[no-any-return]


class AnnealedTopK(TopKTrainingSAE):  # type: ignore[misc]
    def before_step(self, step: int, n_steps: int) -> None:
        """Set the number of active latents for `step` of `n_steps`."""
        done = min(1.0, step / max(1.0, self.cfg.k_anneal_share * n_steps))
        factor = self.cfg.k_start_factor + (1.0 - self.cfg.k_start_factor) * done
        self.activation_fn.k = min(self.cfg.d_sae, round(self.cfg.k * factor))


register("annealed_topk", AnnealedTopK, AnnealedTopKConfig)
