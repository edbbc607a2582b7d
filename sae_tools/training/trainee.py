"""One SAE in training: its weights, Adam's moments, and for how long each latent has been silent."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sae_tools import saes
from sae_tools.common import distributed
from sae_tools.common.draws import generator
from sae_tools.common.errors import WorkbenchError
from sae_tools.common.settings import Recipe
from sae_tools.saes import SAE, TrainStepInput
from sae_tools.training.divided import WHOLE, Division
from sae_tools.training.resample import resample
from sae_tools.training.sparsity import Controller
from sae_tools.training.step_result import Result
from sae_tools.training.steps import Stepper, check_divisible
from sae_tools.training.weights import begin_from, copy_latents


def learning_rate(step: int, n_steps: int, recipe: Recipe) -> float:
    """Share of `recipe.lr` at `step`: linear warm-up, constant, linear decay to 0 (SAELens' trapezoid)."""
    up = min(1.0, (step + 1) / recipe.lr_warm_up_steps) if recipe.lr_warm_up_steps else 1.0
    down = min(1.0, (n_steps - step) / recipe.lr_decay_steps) if recipe.lr_decay_steps else 1.0
    return min(up, down)


class Trainee:
    """An SAE for rows that are multiplied by `scale`, and all that changes while it trains.

    It begins with the weights of `start`, where given, whose first `frozen` latents and b_dec stay as they are. Of a
    divided one this process has a part.
    """

    def __init__(
        self,
        recipe: Recipe,
        seed: int,
        d_in: int,
        metadata: dict[str, Any],
        device: str,
        dtype: torch.dtype,
        scale: float = 1.0,
        start: SAE[Any] | None = None,
        frozen: int = 0,
        division: Division = WHOLE,
    ) -> None:
        self.division = division
        self.build = partial(
            saes.build, recipe.architecture, d_in, recipe.d_sae, recipe.architecture_options, metadata, seed
        )
        if division.parts > 1:
            check_divisible(self.build("meta"), recipe.step)
        self.recipe, self.seed, self.scale, self.start, self.frozen = recipe, seed, scale, start, frozen
        self.sae = division.build(self.build, device).train()
        if start is not None:
            begin_from(self.sae, start, scale)
        self.stepper = Stepper(self.sae, dtype, recipe.step, division)
        self.parameters = self.stepper.parameters
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=recipe.lr, fused=True)
        self.silent = torch.zeros(recipe.d_sae // division.parts, dtype=torch.long, device=device)
        """(d_sae,) tokens since each latent fired; of a divided SAE, each of this part."""
        self.coefficients: dict[str, float] = {}
        """Of the losses, in the last step."""
        n_steps, target = -(-recipe.training_tokens // recipe.batch_size), recipe.target_l0
        self.control = None if target is None else Controller(target, n_steps, saes.warm_up_steps(self.sae))

    @property
    def dead(self) -> Tensor:
        """(d_sae,) which latents count as dead; a frozen one never does, as nothing can revive it."""
        dead = self.silent >= self.recipe.dead_after_tokens
        dead[: self.frozen] = False
        return dead

    def step(self, rows: Tensor, step: int, n_steps: int) -> Result:
        """Learn from this process's rows (batch / shares, d_in) of the batch of `step`.

        Raises:
            WorkbenchError: loss or gradient is not finite; no weight, moment or count was changed then.
        """
        if hasattr(self.sae, "before_step"):
            self.sae.before_step(step, n_steps)
        self.coefficients = self._steered(step)
        result = self.stepper(TrainStepInput(rows, self.coefficients, self.dead, step, False))
        if self.recipe.frozen_decoder:
            self.parameters["W_dec"].grad = None  # Adam then leaves it
        if self.frozen:
            self._freeze()
        norm = self.division.combine_(self.parameters)
        _refuse_not_finite(result, rows, norm, step, self.division.share)
        share = learning_rate(step, n_steps, self.recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr * share
        self.optimizer.step()
        self.optimizer.zero_grad()
        fired = distributed.greatest_(result.fired.to(torch.uint8), self.division.batch).bool()
        self.silent = torch.where(fired, 0, self.silent + len(rows) * self.division.shares)
        if self.control is not None:
            l0 = result.l0.detach().double()[None]
            distributed.average_([l0])
            self.control.note(step, l0, share)
        every = self.recipe.resample_every
        # In the first half only: what is resampled late does not settle before the learning rate falls.
        if every and 0 < step + 1 <= n_steps // 2 and (step + 1) % every == 0:
            self._resample(rows, result.sae_out.detach(), step)
        return result

    def _freeze(self) -> None:
        """Drop the gradients of the frozen latents and of b_dec: Adam, whose moments of them are 0, leaves them."""
        self.parameters["b_dec"].grad = None
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                by_column = name == "W_enc" and self.stepper.rule is None
                (parameter.grad[:, : self.frozen] if by_column else parameter.grad[: self.frozen]).zero_()

    def _steered(self, step: int) -> dict[str, float]:
        """The loss coefficients at `step`, steered where the recipe has a `target_l0`."""
        factor = 1.0 if self.control is None else self.control.factor
        return {name: factor * value for name, value in saes.coefficients(self.sae, step).items()}

    def _resample(self, rows: Tensor, sae_out: Tensor, step: int) -> None:
        dead, draw = self.dead, generator(self.seed, step)
        rows, sae_out = (distributed.gathered(t, self.division.batch) for t in (rows, sae_out))
        resample(self.sae, self.parameters, self.optimizer, rows, sae_out, dead, draw, self.division)
        self.silent[dead] = 0

    def tensors(self) -> dict[str, Tensor]:
        """All that `restore` needs to go on as if never interrupted."""
        state: dict[str, Tensor] = {"silent": self.silent}
        if self.control is not None:
            state["control"] = self.control.state
        for name, parameter in self.parameters.items():
            state[f"weights.{name}"] = parameter.data
            for key, value in self.optimizer.state[parameter].items():
                state[f"adam.{name}.{key}"] = value
        state |= {f"buffers.{name}": buffer for name, buffer in self.sae.named_buffers()}
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take over what `tensors` gave."""
        self.silent = state["silent"].to(self.silent.device)
        if self.control is not None:
            self.control.state = state["control"].cpu()
        buffers = dict(self.sae.named_buffers())
        for key, value in state.items():
            kind, _, rest = key.partition(".")
            if kind == "weights":
                self.parameters[rest].data.copy_(value)
            elif kind == "buffers":
                buffers[rest].copy_(value)
            elif kind == "adam":
                name, _, moment = rest.rpartition(".")
                parameter = self.parameters[name]
                self.optimizer.state[parameter][moment] = value.to(parameter.device)

    def finished(self) -> saes.TrainingSAE[Any] | None:
        """The SAE for rows that are not multiplied by `scale`, its weights laid out as SAELens has them.

        A divided one is put together in process 0, and None in the others.
        """
        whole = self.division.collected(self.sae, self.build)
        return None if whole is None else self._unscaled(whole)

    def now(self) -> SAE[Any]:
        """What would be saved if training ended here."""
        found = saes.inference(self._unscaled(deepcopy(self.sae)))
        if self.frozen and self.start is not None:
            copy_latents(self.start, found, self.frozen)
        return found

    def _unscaled(self, sae: saes.TrainingSAE[Any]) -> saes.TrainingSAE[Any]:
        for parameter in sae.parameters():
            parameter.data = parameter.data.contiguous()
        if self.scale != 1.0:
            sae.fold_activation_norm_scaling_factor(self.scale)
        if self.frozen and self.start is not None:
            copy_latents(self.start, sae, self.frozen)
        return sae


def _refuse_not_finite(result: Result, rows: Tensor, norm: Tensor, step: int, share: int) -> None:
    if bool(torch.isfinite(result.loss) & torch.isfinite(norm)):
        return
    bad = ~(torch.isfinite(rows).all(-1) & torch.isfinite(result.sae_out).all(-1))
    ids = [int(i) + share * len(rows) for i in bad.nonzero().flatten()[:5]]
    where = f"rows {ids} of the batch are to blame" if ids else "no single row is to blame"
    raise WorkbenchError(
        f"at step {step} the loss is {float(result.loss.detach()):g} and the gradient's norm {float(norm):g}; {where}. "
        "The last checkpoint is kept; lower lr, or look for bad activations."
    )
