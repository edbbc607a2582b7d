"""A step's loss and gradients against SAELens' own forward pass and autograd."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_tools import saes
from sae_tools.saes import TrainingSAE, TrainStepInput
from sae_tools.training import topk_step
from sae_tools.training.steps import Stepper

D_IN, D_SAE, BATCH = 32, 1024, 96

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "topk": ("topk", {"k": 4}),
    "topk, many": ("topk", {"k": 24}),
    "topk, plain norms": ("topk", {"k": 4, "rescale_acts_by_decoder_norm": False}),
    "topk, b_dec subtracted": ("topk", {"k": 4, "apply_b_dec_to_input": True}),
    "topk, b_dec kept": ("topk", {"k": 4, "apply_b_dec_to_input": False}),
    "abstopk": ("abstopk", {"k": 4}),
    "batchtopk": ("batchtopk", {"k": 4.5}),
    "batchtopk, plain norms": ("batchtopk", {"k": 3.0, "rescale_acts_by_decoder_norm": False}),
    "matryoshka": ("matryoshka_batchtopk", {"k": 5.0, "matryoshka_widths": [64, 256, D_SAE]}),
    "matryoshka, own aux": (
        "matryoshka_batchtopk",
        {"k": 5.0, "matryoshka_widths": [64, 256, D_SAE], "use_matryoshka_aux_loss": True},
    ),
    "standard": ("standard", {"l1_coefficient": 3.0}),
    "standard, layer norm": ("standard", {"l1_coefficient": 3.0, "normalize_activations": "layer_norm"}),
    "jumprelu, step": ("jumprelu", {"jumprelu_init_threshold": 0.2}),
    "jumprelu, step to input": (
        "jumprelu",
        {"jumprelu_init_threshold": 0.2, "jumprelu_ste_to_input": True, "pre_act_loss_coefficient": 0.01},
    ),
    "jumprelu, tanh": (
        "jumprelu",
        {
            "jumprelu_init_threshold": 0.1,
            "jumprelu_sparsity_loss_mode": "tanh",
            "pre_act_loss_coefficient": 0.01,
            "jumprelu_ste_to_input": True,
        },
    ),
    "jumprelu, quadratic": (
        "jumprelu",
        {"jumprelu_init_threshold": 0.1, "jumprelu_sparsity_loss_mode": "quadratic", "target_l0": 8.0},
    ),
}
DEAD = {"none dead": 0, "few dead": 10, "some dead": 200, "most dead": 900}


def random_sae(architecture: str, options: dict[str, Any]) -> TrainingSAE[Any]:
    """An SAE whose every parameter has values of its own, and of which few latents fire."""
    sae = saes.build(architecture, D_IN, D_SAE, {"decoder_init_norm": 0.3, **options}, {}, 0, "cpu")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            if name != "threshold":
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        if architecture in ("standard", "jumprelu"):
            sae.b_enc -= 1.0
    return sae.train()


def inputs_with(n_dead: int, sae: TrainingSAE[Any]) -> TrainStepInput:
    generator = torch.Generator().manual_seed(2)
    dead = torch.zeros(D_SAE, dtype=torch.bool)
    dead[torch.randperm(D_SAE, generator=generator)[:n_dead]] = True
    rows = torch.randn(BATCH, D_IN, generator=generator)
    return TrainStepInput(rows, saes.coefficients(sae, 10), dead, n_training_steps=10, is_logging_step=False)


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-9))


@pytest.mark.parametrize("n_dead", DEAD.values(), ids=DEAD)
@pytest.mark.parametrize("case", CASES)
def test_loss_and_every_gradient_are_saelens(case: str, n_dead: int) -> None:
    theirs = random_sae(*CASES[case])
    ours = copy.deepcopy(theirs)
    inputs = inputs_with(n_dead, theirs)
    expected = theirs.training_forward_pass(inputs)
    expected.loss.backward()

    stepper = Stepper(ours, torch.float32)
    result = stepper(inputs)

    assert stepper.sparse, "the sparse rule was not taken"
    assert relative(result.loss.detach(), expected.loss.detach()) <= 1e-5
    assert set(result.losses) == set(expected.losses)
    for name, loss in expected.losses.items():
        assert float(result.losses[name].detach()) == pytest.approx(float(loss.detach()), rel=1e-5, abs=1e-7), name
    for name, parameter in theirs.named_parameters():
        gradient = stepper.parameters[name].grad
        if parameter.grad is None or parameter.grad.norm() < 1e-6:
            assert gradient is None or gradient.norm() < 1e-6, name
            continue
        assert gradient is not None, name
        assert relative(gradient.T if name == "W_enc" else gradient, parameter.grad) <= 1e-5, name
    assert relative(result.sae_out.detach(), expected.sae_out.detach()) <= 1e-5
    on = expected.feature_acts != 0
    assert torch.equal(result.fired, on.any(0))
    assert float(result.l0) == pytest.approx(float(on.sum(-1).float().mean()))
    for name, buffer in theirs.named_buffers():
        torch.testing.assert_close(dict(ours.named_buffers())[name], buffer, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("case", CASES)
def test_chunks_change_nothing(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for chunk in (2**24, 1):
        monkeypatch.setattr("sae_tools.training.sparse.CHUNK", chunk)
        sae = random_sae(*CASES[case])
        stepper = Stepper(sae, torch.float32)
        loss = stepper(inputs_with(900, sae)).loss
        results.append((loss.detach(), stepper.parameters["W_enc"].grad))
    for whole, parts in zip(*results, strict=True):
        assert relative(parts, whole) <= 1e-5


@pytest.mark.parametrize("architecture", ["standard", "jumprelu"])
def test_many_active_latents_take_the_dense_pass_and_leave_the_same_gradients(architecture: str) -> None:
    theirs = saes.build(architecture, D_IN, D_SAE, {}, {}, 0, "cpu").train()
    ours = copy.deepcopy(theirs)
    inputs = inputs_with(10, theirs)
    theirs.training_forward_pass(inputs).loss.backward()
    stepper = Stepper(ours, torch.float32)
    stepper(inputs)
    assert stepper.sparse is False
    assert theirs.W_enc.grad is not None
    assert torch.equal(stepper.parameters["W_enc"].grad.T, theirs.W_enc.grad)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("gated", {}),
        ("matching_pursuit", {"max_iterations": 4, "decoder_init_norm": 1.0}),
        ("standard", {"lp_norm": 0.5}),
    ],
)
def test_other_architectures_take_saelens_forward_pass(architecture: str, options: dict[str, Any]) -> None:
    theirs = saes.build(architecture, D_IN, 64, options, {}, 0, "cpu").train()
    with torch.no_grad():
        theirs.b_dec += 0.1
    ours = copy.deepcopy(theirs)
    rows = torch.randn(BATCH, D_IN, generator=torch.Generator().manual_seed(0))
    inputs = TrainStepInput(rows, saes.coefficients(theirs, 3), torch.zeros(64, dtype=torch.bool), 3, False)
    expected = theirs.training_forward_pass(inputs)
    expected.loss.backward()
    stepper = Stepper(ours, torch.float32)
    result = stepper(inputs)
    assert stepper.sparse is False
    assert torch.equal(result.loss, expected.loss)
    for name, parameter in theirs.named_parameters():
        gradient = stepper.parameters[name].grad
        if parameter.grad is not None:
            torch.testing.assert_close(
                gradient.T if name == "W_enc" and architecture == "standard" else gradient, parameter.grad
            )


def test_a_class_that_changes_a_formula_is_not_given_the_sparse_rule() -> None:
    sae = random_sae("topk", {"k": 4})

    class Louder(type(sae)):  # type: ignore[misc]
        def decode(self, feature_acts: Tensor) -> Tensor:
            return 2 * super().decode(feature_acts)

    class Same(type(sae)):  # type: ignore[misc]
        pass

    assert saes.formulas_of(sae) == "topk"
    sae.__class__ = Same
    assert saes.formulas_of(sae) == "topk"
    sae.__class__ = Louder
    assert saes.formulas_of(sae) is None
    stepper = Stepper(sae, torch.float32)
    stepper(inputs_with(0, sae))
    assert stepper.sparse is False


def test_bfloat16_only_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the choice made in bfloat16, the values and gradients of what is chosen, and of the dead, are float32's."""
    inputs = inputs_with(200, sae := random_sae("topk", {"k": 4}))
    wide, narrow = (Stepper(copy.deepcopy(sae), dtype) for dtype in (torch.float32, torch.bfloat16))
    loss = wide(inputs).loss
    picked = []
    real = topk_step._chosen
    monkeypatch.setattr(topk_step, "_chosen", lambda *args: picked.append(real(*args)) or picked[-1])
    close = narrow(inputs).loss
    assert float(close.detach()) == pytest.approx(float(loss.detach()), rel=0.02)
    monkeypatch.setattr(topk_step, "_chosen", lambda *args: picked[0])
    again = Stepper(copy.deepcopy(sae), torch.float32)
    assert torch.equal(again(inputs).loss, close)
    for name, parameter in again.parameters.items():
        assert torch.equal(parameter.grad, narrow.parameters[name].grad), name  # type: ignore[arg-type]


def test_batch_top_k_takes_the_wanted_number_where_bfloat16_has_equal_values() -> None:
    sae = random_sae("batchtopk", {"k": 40.0})
    result = Stepper(sae, torch.bfloat16)(inputs_with(0, sae))
    assert float(result.l0) == pytest.approx(40.0, abs=0.05)  # a few are negative in float32


@pytest.mark.parametrize("case", ["topk", "batchtopk", "standard", "jumprelu, step", "jumprelu, tanh"])
def test_a_step_of_many_entries_gives_the_same_bytes_each_time(case: str) -> None:
    sae = random_sae(*CASES[case])
    with torch.no_grad():
        sae.b_enc += 0.3  # tens of thousands of entries, which threads share
    chance = torch.Generator().manual_seed(2)
    rows, dead = torch.randn(4096, D_IN, generator=chance), torch.zeros(D_SAE, dtype=torch.bool)
    inputs = TrainStepInput(rows, saes.coefficients(sae, 10), dead, 10, False)
    gradients = []
    for _ in range(6):
        stepper = Stepper(copy.deepcopy(sae), torch.float32)
        stepper(inputs)
        assert stepper.sparse
        gradients.append({name: p.grad for name, p in stepper.parameters.items()})
    for other in gradients[1:]:
        for name, gradient in gradients[0].items():
            assert torch.equal(gradient, other[name]), name  # type: ignore[arg-type]
