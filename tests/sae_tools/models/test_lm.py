"""Activations against TransformerLens and Hugging Face's own outputs; generation against a loop without a cache."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from sae_tools.common.errors import InputError, SettingError
from sae_tools.models.lm import LanguageModel, Patch
from sae_tools.models.sites import KINDS
from tests.conftest import CONTEXT, FAMILIES, TinyLM, save_tiny


def site_names(*layers: int) -> list[str]:
    return [f"blocks.{layer}.{kind}" for layer in layers for kind in KINDS]


def hooks_on(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def blocks_of(lm: LanguageModel) -> nn.ModuleList:
    assert lm.family is not None
    blocks = lm.model.get_submodule(lm.family.blocks)
    assert isinstance(blocks, nn.ModuleList)
    return blocks


# --- activations -----------------------------------------------------------------------------------------------------


NOT_IN_BRIDGE = ("falcon-40b", "falcon-11b", "falcon-rw")
"""TransformerBridge 3.9 takes the first two apart in the wrong places, and gives the last a steeper ALiBi."""


@pytest.mark.parametrize("family", FAMILIES)
def test_activations_equal_transformer_lens(
    tiny_lm: TinyLM, ids: Tensor, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = tiny_lm(family)
    names = site_names(0, 1, 2)
    found = lm.activations(ids, [lm.site(name) for name in names])
    if family in NOT_IN_BRIDGE:
        return hold_to_the_sums(lm, ids, found)
    # Of a model that sees it looks for an image processor on the Hub, and then installs torchvision, and another torch.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("subprocess.check_call", None)
    model = AutoModelForCausalLM.from_pretrained(lm.name, attn_implementation="eager")
    bridge = TransformerBridge.boot_transformers(lm.name, hf_model=model, tokenizer=lm.tokenizer, device="cpu")
    _, cache = bridge.run_with_cache(ids)
    theirs = {}
    for name in names:
        theirs[name] = cache[name].flatten(2)  # hook_z keeps the heads apart there
    torch.testing.assert_close(found, theirs, rtol=1e-4, atol=1e-5)
    return None


def hold_to_the_sums(lm: LanguageModel, ids: Tensor, found: dict[str, Tensor]) -> None:
    """The stream is the sum of what is added to it, and each part follows from its own parts by the checkpoint."""
    stream, weights = lm.model(ids, output_hidden_states=True).hidden_states, weights_of(lm)
    family = str(lm.config.model_type)
    for layer in range(3):
        part = {kind: found[f"blocks.{layer}.{kind}"] for kind in KINDS}
        torch.testing.assert_close(part["hook_resid_pre"], stream[layer])
        added = part["hook_attn_out"] + part["hook_mlp_out"]
        torch.testing.assert_close(part["hook_resid_pre"] + added, part["hook_resid_post"])
        if layer < 2:  # Hugging Face's last hidden state is after the final norm
            torch.testing.assert_close(part["hook_resid_post"], stream[layer + 1])
        for read, given, end in (("attn.hook_z", "hook_attn_out", MIX), ("mlp.hook_post", "hook_mlp_out", DOWN)):
            product = part[read] @ only(weights, f"{end[family]}.weight", layer).T
            offsets = [t for n, t in weights.items() if n.endswith(f"{end[family]}.bias") and f".{layer}." in n]
            torch.testing.assert_close(product + sum(offsets), part[given], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_early_exit_equals_the_full_forward_and_stops(tiny_lm: TinyLM, ids: Tensor, family: str) -> None:
    lm = tiny_lm(family)
    hidden = lm.model(ids, output_hidden_states=True).hidden_states
    called: list[int] = []
    handles = [
        block.register_forward_pre_hook(lambda *_, layer=layer: called.append(layer))
        for layer, block in enumerate(blocks_of(lm))
    ]
    try:
        for layer in (0, 1):
            called.clear()
            site = lm.site(f"blocks.{layer}.hook_resid_post")
            assert torch.equal(lm.activations(ids, [site])[site.name], hidden[layer + 1])
            assert called == list(range(layer + 1))
        called.clear()
        site = lm.site("blocks.2.hook_resid_pre")
        assert torch.equal(lm.activations(ids, [site])[site.name], hidden[2])
        assert 2 not in called[:-1]
    finally:
        for handle in handles:
            handle.remove()


def test_several_sites_in_one_pass_equal_one_at_a_time(tiny_lm: TinyLM, ids: Tensor) -> None:
    lm = tiny_lm("llama")
    # Deepest first: the order asked for is not the order in the model.
    names = ["blocks.1.mlp.hook_post", "blocks.0.hook_resid_post", "blocks.1.hook_attn_out", "blocks.0.attn.hook_z"]
    sites = [lm.site(name) for name in names]
    calls: list[int] = []
    handle = blocks_of(lm)[0].register_forward_pre_hook(lambda *_: calls.append(1))
    together = lm.activations(ids, sites)
    handle.remove()
    assert len(calls) == 1
    assert set(together) == set(names)
    for site in sites:
        assert torch.equal(together[site.name], lm.activations(ids, [site])[site.name])


def test_no_hook_stays_behind(tiny_lm: TinyLM, ids: Tensor) -> None:
    lm = tiny_lm("llama")
    before = hooks_on(lm.model)
    site = lm.site("blocks.1.hook_resid_post")

    def fail(acts: Tensor) -> Tensor:
        raise ZeroDivisionError

    lm.activations(ids, [site])
    lm.logits(ids, Patch(site, lambda acts: acts))
    with pytest.raises(ZeroDivisionError):
        lm.logits(ids, Patch(site, fail))
    with pytest.raises(ZeroDivisionError):
        list(lm.generate(ids[:1], 3, patch=Patch(site, fail)))
    abandoned = lm.generate(ids[:1], 5, patch=Patch(site, lambda acts: acts))
    next(abandoned)
    assert hooks_on(lm.model) == before  # also while a generation waits for its next step


# --- patched forward -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_an_identity_patch_is_bit_identical(tiny_lm: TinyLM, ids: Tensor, family: str) -> None:
    lm = tiny_lm(family)
    plain = lm.logits(ids)
    assert torch.equal(plain, lm.model(ids).logits)
    for name in site_names(1):
        assert torch.equal(lm.logits(ids, Patch(lm.site(name), lambda acts: acts)), plain)


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("kind", ["hook_resid_post", "hook_resid_pre"])
def test_a_patch_changes_text_tokens_only_unless_everywhere(
    tiny_lm: TinyLM, ids: Tensor, kind: str, everywhere: bool
) -> None:
    lm = tiny_lm("llama")
    layer = 0 if kind == "hook_resid_post" else 1  # both are what block 1 is given
    arrived: list[Tensor] = []
    clean = lm.model(ids, output_hidden_states=True).hidden_states[1]
    norm = blocks_of(lm)[1].get_submodule("input_layernorm")
    handle = norm.register_forward_pre_hook(lambda _, args: arrived.append(args[0]))
    try:
        lm.logits(ids, Patch(lm.site(f"blocks.{layer}.{kind}"), lambda acts: 2 * acts + 1, everywhere))
    finally:
        handle.remove()
    special = (ids == 0) | (ids == 1)
    assert special.sum() == 4
    (seen,) = arrived
    assert torch.equal(seen[~special], (2 * clean + 1)[~special])
    assert torch.equal(seen[special], (2 * clean + 1 if everywhere else clean)[special])


@pytest.mark.parametrize("kind", KINDS)
def test_patching_a_site_equals_transformer_lens(tiny_lm: TinyLM, ids: Tensor, kind: str) -> None:
    lm = tiny_lm("gpt2")
    model = AutoModelForCausalLM.from_pretrained(lm.name, attn_implementation="eager")
    bridge = TransformerBridge.boot_transformers(lm.name, hf_model=model, tokenizer=lm.tokenizer, device="cpu")
    name = f"blocks.1.{kind}"
    theirs = bridge.run_with_hooks(ids, fwd_hooks=[(name, lambda acts, hook: acts.relu())])
    ours = lm.logits(ids, Patch(lm.site(name), torch.relu, everywhere=True))
    assert not torch.allclose(ours, lm.logits(ids), atol=1e-2)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


# --- generation ------------------------------------------------------------------------------------------------------


def recomputed(
    lm: LanguageModel, ids: Tensor, n: int, pick: Callable[[Tensor], int], patch: Patch | None = None
) -> list[int]:
    """Token after token from the whole text each time, with no cache."""
    for _ in range(n):
        token = pick(lm.logits(ids, patch)[0, -1])
        ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    return ids[0, -n:].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_text_equals_a_full_recompute(tiny_lm: TinyLM, ids: Tensor, family: str) -> None:
    lm = tiny_lm(family)
    patch = Patch(lm.site("blocks.1.hook_resid_post"), lambda acts: acts + torch.linspace(-1, 1, 32))
    start = ids[:1, :20]
    for each in (None, patch):
        expected = recomputed(lm, start, 12, lambda logits: int(logits.argmax()), each)
        ends = [*expected, 1].index(1)
        assert ends > 2
        assert list(lm.generate(start, 12, temperature=0, patch=each)) == expected[:ends]


@pytest.mark.parametrize("everywhere", [False, True])
def test_new_tokens_only_acts_from_the_last_token_of_the_prompt_on(
    tiny_lm: TinyLM, ids: Tensor, everywhere: bool
) -> None:
    lm, start = tiny_lm("llama"), ids[:1, :20]
    site, push, chance = (
        lm.site("blocks.1.hook_resid_post"),
        torch.linspace(-1, 1, 32),
        torch.Generator().manual_seed(3),
    )
    by_hand = Patch(site, lambda acts: acts + push * (torch.arange(acts.shape[1]) >= 19)[:, None])
    expected = recomputed(
        lm, start, 12, lambda logits: int(torch.multinomial(logits.softmax(-1), 1, generator=chance)), by_hand
    )
    for other in (None, Patch(site, lambda acts: acts + push)):
        assert list(lm.generate(start, 12, seed=3, patch=other)) != expected
    patch = Patch(site, lambda acts: acts + push, everywhere, new_tokens_only=True)
    assert list(lm.generate(start, 12, seed=3, patch=patch)) == expected


def test_a_begin_token_alone_is_pushed_only_by_a_patch_for_everywhere(tiny_lm: TinyLM, ids: Tensor) -> None:
    lm, begin = tiny_lm("llama"), ids[:1, :1]
    for everywhere in (False, True):
        patch = Patch(lm.site("blocks.1.hook_resid_post"), lambda acts: 2 * acts + 1, everywhere, new_tokens_only=True)
        assert torch.equal(lm.logits(begin, patch), lm.logits(begin)) is not everywhere


def test_sampled_text_equals_a_full_recompute(tiny_lm: TinyLM, ids: Tensor) -> None:
    lm, start = tiny_lm("llama"), ids[:1, :20]
    chance = torch.Generator().manual_seed(3)
    expected = recomputed(
        lm, start, 12, lambda logits: int(torch.multinomial(torch.softmax(logits / 0.7, -1), 1, generator=chance))
    )
    assert list(lm.generate(start, 12, temperature=0.7, seed=3)) == expected
    assert list(lm.generate(start, 12, temperature=0.7, seed=4)) != expected


def test_samples_follow_the_model_s_probabilities(tiny_lm: TinyLM, ids: Tensor) -> None:
    lm, start = tiny_lm("llama"), ids[:1, :8]
    temperature = 0.5
    probabilities = torch.softmax(lm.logits(start)[0, -1] / temperature, -1)
    best = int(probabilities.argmax())
    drawn = [next(lm.generate(start, 1, temperature, seed), 1) for seed in range(400)]
    share, p = drawn.count(best) / 400, float(probabilities[best])
    assert abs(share - p) < 4 * (p * (1 - p) / 400) ** 0.5


def test_equal_seeds_give_equal_text_whatever_the_global_state(tiny_lm: TinyLM, ids: Tensor) -> None:
    lm, start = tiny_lm("gpt2"), ids[:1, :8]
    first = list(lm.generate(start, 10, seed=7))
    torch.rand(5)
    assert list(lm.generate(start, 10, seed=7)) == first


def test_generation_stops_at_the_model_s_context(tiny_lm: TinyLM, ids: Tensor) -> None:
    lm = tiny_lm("gpt2")  # learned positions: one more would be an index error
    assert lm.context_size == CONTEXT
    assert len(list(lm.generate(ids[:1, :40], 1000, temperature=0))) == CONTEXT - 40
    full = torch.arange(2, 2 + CONTEXT)[None]
    assert list(lm.generate(full, 5)) == []


def test_generation_stops_at_the_end_token(tiny_lm: TinyLM, ids: Tensor) -> None:
    lm, start = tiny_lm("llama"), ids[:1, :20]
    text = list(lm.generate(start, 12, seed=1))
    stop = next(token for token in text[3:] if token not in text[:3])
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(stop)
    other = LanguageModel(lm.model, tokenizer)
    assert list(other.generate(start, 12, seed=1)) == text[: text.index(stop)]


# --- tokens ----------------------------------------------------------------------------------------------------------

ODD_TEXTS = {
    "zwj family": "a 👨‍👩‍👧‍👦 b",
    "flag": "🏳️‍🌈🇮🇱",
    "hebrew": "שלום, עולם",
    "right to left override": "abc\u202edef\u202c",
    "nul": "a\0b",
    "zero width": "a\u200bb\ufeff",
    "combining": "e\u0301\u0301 ä",
    "replacement character": "x\ufffdy \ufffd",
    "spaces": "  two  spaces\t\n\r\n and no-break\u00a0",
    "cjk": "日本語のテキスト",
    "contractions": "I do n't know . He 's  , she said !",
    "html": "<b>&amp;</b>",
    "special token as text": "a </s> b",
    "empty": "",
}


@pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS)
def test_pieces_joined_are_the_text(tiny_lm: TinyLM, text: str) -> None:
    lm = tiny_lm("llama")
    ids = lm.tokens(text)[0].tolist()
    pieces = lm.pieces(ids)
    assert len(pieces) == len(ids)
    assert pieces[0] == "<s>"
    assert "".join(pieces[1:]) == text


def test_a_character_of_several_tokens_stands_at_its_last(tiny_lm: TinyLM) -> None:
    lm = tiny_lm("llama")
    ids = lm.tokens("é日")[0].tolist()
    assert len(ids) == 1 + 2 + 3  # the tokenizer knows bytes only of these
    assert lm.pieces(ids) == ["<s>", "", "é", "", "", "日"]


def test_pieces_of_a_broken_character_are_the_decoded_text(tiny_lm: TinyLM) -> None:
    lm = tiny_lm("llama")
    ids = [*lm.tokens("日")[0].tolist()[:-1], *lm.tokens("ok")[0].tolist()[1:]]
    pieces = lm.pieces(ids)
    assert "".join(pieces) == lm.tokenizer.decode(ids)


def test_tokens_begin_with_the_begin_token_once(tiny_lm: TinyLM, tokenizer: PreTrainedTokenizerFast) -> None:
    lm = tiny_lm("llama")
    assert lm.tokens("a fox").tolist() == [[0, *tokenizer.encode("a fox", add_special_tokens=False)]]
    assert lm.tokens("").tolist() == [[0]]


def test_is_text_is_true_but_for_special_tokens(tiny_lm: TinyLM) -> None:
    lm = tiny_lm("llama")
    assert lm.special_ids == [0, 1]
    assert lm.is_text(torch.tensor([[0, 5, 1, 2]])).tolist() == [[False, True, False, True]]


# --- direct effect on the logits -------------------------------------------------------------------------------------


def weights_of(lm: LanguageModel) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = load_file(f"{lm.name}/model.safetensors")
    return weights


FINAL_NORM = {  # of those that centre
    "gpt2": "ln_f", "gpt_neo": "ln_f", "gptj": "ln_f", "falcon": "ln_f", "gpt_neox": "final_layer_norm",
    "opt": "decoder.final_layer_norm",
}  # fmt: skip
DOWN = {
    "gpt2": "mlp.c_proj", "gpt_neo": "mlp.c_proj", "gptj": "fc_out", "falcon": "dense_4h_to_h",
    "gpt_neox": "dense_4h_to_h", "opt": "fc2",
}  # fmt: skip
MIX = {
    "gpt2": "attn.c_proj", "gpt_neo": "out_proj", "gptj": "out_proj", "falcon": "self_attention.dense",
    "gpt_neox": "attention.dense", "opt": "out_proj",
}  # fmt: skip
ONE_ADDED = {"gemma", "gemma2", "gemma3", "gemma3_text"}  # their norms store the weight less 1
POST_NORM = {"gemma2", "gemma3", "gemma3_text", "olmo2"}  # a norm after each sublayer
POST = {"mlp.hook_post": "post_feedforward_layernorm", "attn.hook_z": "post_attention_layernorm"}


def only(weights: dict[str, Tensor], end: str, layer: int | None = None) -> Tensor:
    """The one weight whose name ends so, in a layer if one is given."""
    found = [t for n, t in weights.items() if n.endswith(end) and (layer is None or f".{layer}." in n)]
    assert len(found) == 1, [n for n in weights if n.endswith(end)]
    return found[0]


def closed_form(lm: LanguageModel, kind: str, layer: int, direction: Tensor) -> Tensor:
    """(d_vocab,) W_U · (γ ∘ centred(way to the residual stream · d)), from the checkpoint's own numbers."""
    family, weights = str(lm.model.config.model_type), weights_of(lm)  # type: ignore[union-attr]
    plus = float(family in ONE_ADDED)
    x = direction
    if kind in POST:
        end = DOWN.get(family, "down_proj") if kind == "mlp.hook_post" else MIX.get(family, "o_proj")
        matrix = only(weights, f"{end}.weight", layer)
        x = x @ matrix if family == "gpt2" else matrix @ x
        if family in POST_NORM:
            x = x * (only(weights, f"{POST[kind]}.weight", layer) + plus)
    if family in FINAL_NORM:
        x = x - x.mean()
    norm = [t for n, t in weights.items() if n.endswith(f"{FINAL_NORM.get(family, 'model.norm')}.weight")]
    assert len(norm) == 1
    return lm.model.get_output_embeddings().weight @ (x * (norm[0] + plus))  # type: ignore[operator, no-any-return]


@pytest.mark.parametrize("kind", ["hook_resid_post", "hook_mlp_out", "mlp.hook_post", "attn.hook_z"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logit_effects_equal_the_closed_form(tiny_lm: TinyLM, family: str, kind: str) -> None:
    lm = tiny_lm(family)
    site = lm.site(f"blocks.1.{kind}")
    directions = torch.randn(4, lm.width(site), generator=torch.Generator().manual_seed(0))
    effects = lm.logit_effects(site, directions)
    assert effects.shape == (4, lm.d_vocab)
    expected = torch.stack([closed_form(lm, kind, 1, direction) for direction in directions])
    torch.testing.assert_close(effects, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["hook_resid_post", "mlp.hook_post"])
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - POST_NORM))
def test_logit_effects_are_the_derivative_up_to_the_norm_s_scale(
    tiny_lm: TinyLM, ids: Tensor, family: str, kind: str
) -> None:
    """d logits / d x in the last block, along directions that leave the final norm's scale as it is."""
    lm = tiny_lm(family)
    site, resid = lm.site(f"blocks.2.{kind}"), lm.site("blocks.2.hook_resid_post")
    x = lm.activations(ids[:1], [resid])[resid.name][0, -1]
    if lm.model.config.model_type in FINAL_NORM:  # type: ignore[union-attr]
        x = x - x.mean()
    scale = x.square().mean().sqrt()
    if kind == "hook_resid_post":
        steep = x
    else:
        matrix = lm.model.get_submodule(site.path).weight
        steep = matrix @ x if family == "gpt2" else x @ matrix  # type: ignore[operator]
    direction = torch.randn(lm.width(site), generator=torch.Generator().manual_seed(1))
    direction = direction - steep * (direction @ steep) / (steep @ steep)
    step = 0.02

    def logits(sign: int) -> Tensor:
        return lm.logits(ids[:1], Patch(site, lambda acts: acts + sign * step * direction))[0, -1].double()

    derivative = (logits(1) - logits(-1)) / (2 * step)
    effect = lm.logit_effects(site, direction[None])[0].double()
    torch.testing.assert_close(derivative * scale, effect, rtol=1e-2, atol=1e-3 * float(effect.abs().max()))


# --- loading ---------------------------------------------------------------------------------------------------------


def damage(what: str) -> Callable[[Any], None]:
    def delete(name: str) -> Callable[[Any], None]:
        return lambda folder: (folder / name).unlink()

    def write(name: str, data: bytes) -> Callable[[Any], None]:
        return lambda folder: (folder / name).write_bytes(data)

    def truncate(folder: Any) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])

    def rename_a_weight(folder: Any) -> None:
        weights = load_file(folder / "model.safetensors")
        weights["nonsense"] = weights.pop("model.layers.1.mlp.up_proj.weight")
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return {
        "no weights": delete("model.safetensors"),
        "no tokenizer": delete("tokenizer.json"),
        "no config": delete("config.json"),
        "config is no JSON": write("config.json", b"{"),
        "tokenizer is no JSON": write("tokenizer.json", b"{"),
        "weights cut short": truncate,
        "weights are a pickle": write("model.safetensors", b"\x80\x04K\x01."),
        "a weight is missing": rename_a_weight,
        "config of another model": write("config.json", b'{"model_type": "bloom", "num_hidden_layers": 3}'),
    }[what]


@pytest.mark.parametrize(
    "what",
    [
        "no weights",
        "no tokenizer",
        "no config",
        "config is no JSON",
        "tokenizer is no JSON",
        "weights cut short",
        "weights are a pickle",
        "a weight is missing",
        "config of another model",
    ],
)
def test_a_damaged_model_is_refused(tmp_path: Any, tokenizer: PreTrainedTokenizerFast, what: str) -> None:
    folder = tmp_path / "model"
    save_tiny("llama", folder, tokenizer)
    damage(what)(folder)
    with pytest.raises(InputError) as error:
        LanguageModel.load(str(folder), device="cpu")
    assert str(folder) in str(error.value)


def test_an_absent_folder_is_refused(tmp_path: Any) -> None:
    with pytest.raises(InputError, match="does not exist"):
        LanguageModel.load(str(tmp_path / "absent"))


def test_weights_are_loaded_in_the_precision_asked_for(tiny_lm: TinyLM) -> None:
    lm = LanguageModel.load(tiny_lm("llama").name, dtype="bfloat16", device="cpu")
    assert {parameter.dtype for parameter in lm.model.parameters()} == {torch.bfloat16}
    assert not any(parameter.requires_grad for parameter in lm.model.parameters())
    assert not lm.model.training


def test_a_site_beyond_the_model_is_refused(tiny_lm: TinyLM) -> None:
    with pytest.raises(SettingError, match="layers 0 to 2"):
        tiny_lm("llama").site("blocks.3.hook_resid_post")
