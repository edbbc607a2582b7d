"""A training step's loss and gradients: those of SAELens' `training_forward_pass`, at the cost of few latents.

The sparse rules cover TopK, BatchTopK, Matryoshka, AbsTopK, JumpReLU and ReLU + L1. A class of SAELens' registry that
changes one of their formulas, every other architecture, and a batch on which many latents fire go through SAELens' own
forward pass.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sae_tools.common import distributed
from sae_tools.common.errors import SettingError
from sae_tools.saes import TrainingSAE, TrainStepInput, formulas_of
from sae_tools.training.divided import WHOLE, Division
from sae_tools.training.pace import Pace, is_measured, now
from sae_tools.training.relu_step import jump_relu_step, relu_step
from sae_tools.training.step_result import Result
from sae_tools.training.topk_step import top_k_step

logger = logging.getLogger(__name__)


Way = Literal["auto", "sparse", "dense"]
Rule = Callable[[TrainingSAE[Any], Tensor, TrainStepInput, torch.dtype, Division], Result | None]
RULES: dict[str | None, Rule] = {
    "topk": top_k_step,
    "abstopk": top_k_step,
    "batchtopk": top_k_step,
    "matryoshka_batchtopk": top_k_step,
    "standard": relu_step,
    "jumprelu": jump_relu_step,
}
"""By the architecture whose formulas an SAE's class has."""


class Stepper:
    """Loss and gradients of one SAE; `parameters` are what an optimizer has to change, by name."""

    def __init__(
        self, sae: TrainingSAE[Any], dtype: torch.dtype, way: Way = "auto", division: Division = WHOLE
    ) -> None:
        self.sae, self.dtype, self.way, self.division = sae, dtype, way, division
        self.rule = _rule_of(sae, way)
        self.parameters: dict[str, nn.Parameter] = dict(sae.named_parameters())
        self.pace: Pace | None = None
        self.sparse: bool | None = None
        self.told: set[bool] = set()
        if self.rule is not None:
            # A latent's encoder weights must be a row. Same numbers, same memory: the SAE sees the transposed view.
            rows = nn.Parameter(sae.W_enc.data.T.contiguous())
            sae.W_enc.data = rows.data.T
            self.parameters["W_enc"] = rows

    def __call__(self, inputs: TrainStepInput) -> Result:
        """Do the step of `inputs`, and leave the gradients in `parameters`."""
        if self.rule is None:
            return self._dense(inputs)
        if self.pace is None:
            self.pace = Pace(True if self._is_known(inputs.sae_in) else None)
        sparse, on_trial = self.pace.takes_sparse(), self.pace.sparse is None
        start = now(inputs.sae_in.device) if on_trial else 0.0
        result = self._sparse(inputs) if sparse else None
        if sparse and result is None:  # many latents fire
            return self._dense(inputs)
        result = result or self._dense(inputs)
        if on_trial or (not sparse and inputs.n_training_steps % 64 == 0):
            seconds = now(inputs.sae_in.device) - start
            self.pace.note(sparse, seconds, float(result.l0) / self.sae.cfg.d_sae)
        return result

    def _is_known(self, rows: Tensor) -> bool:
        """Whether the sparse way is taken without a trial."""
        # Only the sparse BatchTopK chooses from the rows of all processes, only the sparse rules know of a part.
        needed = self.division.parts > 1 or (distributed.world() > 1 and hasattr(self.sae, "topk_threshold"))
        d_sae = self.sae.cfg.d_sae
        # The rules of ReLU and JumpReLU see for themselves how many fire, and leave it to the dense pass if many do.
        share = getattr(self.sae.cfg, "k", 0) / d_sae
        return self.way == "sparse" or needed or is_measured(rows.device, rows.numel() * d_sae, share)

    def _sparse(self, inputs: TrainStepInput) -> Result | None:
        assert self.rule is not None
        result = self.rule(self.sae, self.parameters["W_enc"], inputs, self.dtype, self.division)
        if result is not None:
            self._tell(sparse=True)
            torch.autograd.backward(result.loss)
        return result

    def _dense(self, inputs: TrainStepInput) -> Result:
        self._tell(sparse=False)
        result = _saelens(self.sae, inputs, self.dtype)
        torch.autograd.backward(result.loss)
        if self.rule is not None:
            assert self.sae.W_enc.grad is not None
            self.parameters["W_enc"].grad, self.sae.W_enc.grad = self.sae.W_enc.grad.T.contiguous(), None
        return result

    def _tell(self, sparse: bool) -> None:
        on_trial = self.pace is not None and self.pace.sparse is None
        if sparse not in self.told and not on_trial:
            kind = "sparse products" if sparse else "SAELens' dense forward pass"
            logger.info("%s: %s", self.sae.cfg.architecture(), kind)
            self.told.add(sparse)
        self.sparse = sparse


def check_divisible(sae: TrainingSAE[Any], way: Way) -> None:
    """Refuse what has no sparse rule, as SAELens' dense pass takes whole SAEs.

    Raises:
        SettingError: naming the architecture, or the step.
    """
    if _rule_of(sae, way) is None or getattr(sae.cfg, "lp_norm", 1) != 1:
        what = "step: dense" if way == "dense" else f"{sae.cfg.architecture()} with these options"
        raise SettingError(
            f"{what} has no sparse step, which latent_parallel needs; set latent_parallel to 1, or use one of: "
            f"{', '.join(sorted(str(name) for name in RULES))}."
        )


def _rule_of(sae: TrainingSAE[Any], way: Way) -> Rule | None:
    return None if way == "dense" else RULES.get(formulas_of(sae))


def _saelens(sae: TrainingSAE[Any], inputs: TrainStepInput, dtype: torch.dtype) -> Result:
    device = inputs.sae_in.device.type
    with torch.autocast(device, dtype) if dtype != torch.float32 else nullcontext():
        out = sae.training_forward_pass(inputs)
    with torch.no_grad():
        on = out.feature_acts != 0
        return Result(out.loss, dict(out.losses), out.sae_out.float(), on.any(0), on.sum(-1).float().mean())
