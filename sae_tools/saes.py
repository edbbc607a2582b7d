"""The one door to SAELens: build an SAE by architecture name, load a folder or a release, save.

Architectures, file format, registry and pretrained releases are SAELens'; a folder written here opens there and theirs
opens here. No other file imports `sae_lens`.
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from sae_lens import SAE, TrainingSAE
from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface
from sae_lens.loading.pretrained_saes_directory import get_repo_id_and_folder_name
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY, get_sae_training_class
from sae_lens.registry import register_sae_training_class as register
from sae_lens.saes.jumprelu_sae import JumpReLU, JumpReLUSAE, JumpReLUSAEConfig, Step
from sae_lens.saes.sae import SAEMetadata, TrainCoefficientConfig, TrainStepInput, TrainStepOutput
from sae_lens.saes.topk_sae import TopKSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
from safetensors import SafetensorError
from torch import Tensor

from sae_tools.common.architectures import ARCHITECTURES
from sae_tools.common.errors import ArtifactError, InputError, SettingError
from sae_tools.models.sources import check_sae

__all__ = [
    "SAE",
    "JumpReLU",
    "Step",
    "TopKSAEConfig",
    "TopKTrainingSAE",
    "TopKTrainingSAEConfig",
    "TrainStepInput",
    "TrainStepOutput",
    "TrainingSAE",
    "as_trained",
    "build",
    "check_width",
    "coefficients",
    "decoded",
    "edited",
    "formulas_of",
    "inference",
    "jump_relu",
    "load",
    "register",
    "save",
    "size",
    "warm_up_steps",
]
CENTRED_SITES = ("hook_resid_pre", "hook_resid_post", "hook_attn_out", "hook_mlp_out")
"""Where TransformerLens' `center_writing_weights` takes the mean out of each activation."""


def build(
    architecture: str, d_in: int, d_sae: int, options: dict[str, Any], metadata: dict[str, Any], seed: int, device: str
) -> TrainingSAE[Any]:
    """A fresh SAE of a registered architecture, ready to train; `options` are the architecture's own settings.

    A dotted architecture is a module: it is imported, and registers the architecture under its last name.

    Raises:
        SettingError: there is no such architecture, or SAELens refuses an option.
    """
    try:
        if "." in architecture:
            importlib.import_module(architecture)
        sae_class, config_class = get_sae_training_class(architecture.rpartition(".")[2])
    except (ImportError, KeyError) as error:
        raise SettingError(f"architecture {architecture!r} is not known: {error}.") from None
    try:
        config = config_class(d_in=d_in, d_sae=d_sae, device=device, metadata=SAEMetadata(**metadata), **options)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return sae_class(config)
    except (TypeError, ValueError) as error:
        raise SettingError(f"{architecture} with {options} was refused: {error}.") from None


def jump_relu(
    W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, b_dec: Tensor, threshold: float, metadata: dict[str, Any]
) -> SAE[Any]:
    """An SAE of given weights, laid out as SAELens has them, whose latents fire above one threshold: for use as it is.

    What SAELens saves of a BatchTopK SAE is of this kind. Its input is x - b_dec.
    """
    d_sae, d_in = W_dec.shape
    sae = JumpReLUSAE(
        JumpReLUSAEConfig(d_in=d_in, d_sae=d_sae, device=str(W_dec.device), metadata=SAEMetadata(**metadata))
    )
    weights = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec}
    sae.load_state_dict({**weights, "threshold": torch.full_like(b_enc, threshold)})
    return sae.eval().requires_grad_(False)


def load(source: str | Path, sae_id: str = "", device: str = "cpu") -> SAE[Any]:
    """Load a local folder (`source` or its subfolder `sae_id`), a SAELens release, or a Hub repository of SAEs.

    Raises:
        ArtifactError: the folder holds no SAE.
        InputError: there is no such release or SAE.
    """
    folder = Path(source) / sae_id
    if folder.is_dir():
        return _load_folder(folder, device)
    try:
        return _for_use(SAE.from_pretrained(str(source), sae_id, device=device))
    except LocalEntryNotFoundError:
        repository, _ = get_repo_id_and_folder_name(str(source), sae_id)
        raise InputError(
            f"SAE {str(source)!r}, id {sae_id!r} cannot be loaded: the Hub repository {repository!r} is not in the "
            "cache and the Hub cannot be reached; connect once, or give the folder of an SAE."
        ) from None
    except (ValueError, OSError) as error:
        raise InputError(f"SAE {str(source)!r}, id {sae_id!r} cannot be loaded: {str(error).splitlines()[0]}") from None


def size(source: str | Path, sae_id: str = "") -> tuple[int, int]:
    """(d_in, d_sae) of what `load` would load, from its configuration alone.

    Raises:
        ArtifactError: the folder holds no SAE.
        InputError: there is no such release or SAE, or it cannot be reached.
    """
    folder = Path(source) / sae_id
    try:
        if folder.is_dir():
            check_sae(folder)
            found = json.loads((folder / "cfg.json").read_text())
        else:
            found = load_sae_config_from_huggingface(str(source), sae_id)
        return int(found["d_in"]), int(found["d_sae"])
    except (ValueError, OSError, KeyError) as error:
        raise InputError(f"SAE {str(source)!r}, id {sae_id!r} cannot be read: {str(error).splitlines()[0]}") from None


@torch.no_grad()
def as_trained(sae: SAE[Any]) -> SAE[Any]:
    """The SAE for activations as Hugging Face's model has them, where it was trained on centred ones.

    TransformerLens' `center_writing_weights` takes its mean over dimensions out of what is written to the stream, P x.
    With apply_b_dec_to_input (P x - b_dec) W + b = (x - b_dec) P W + (b - b_dec W + b_dec P W), and P W is W less the
    mean of its rows: the encoder alone changes.
    """
    metadata = sae.cfg.metadata
    how = metadata.get("model_from_pretrained_kwargs") or {}
    site = str(metadata.get("hook_name") or "").rsplit(".", 1)[-1]
    if not how.get("center_writing_weights") or site not in CENTRED_SITES or not hasattr(sae, "b_enc"):
        return sae
    centred = deepcopy(sae)
    mean = centred.W_enc.mean(dim=0)
    centred.W_enc -= mean
    if sae.cfg.apply_b_dec_to_input:
        centred.b_enc -= sae.b_dec.sum() * mean
    return centred


def _for_use(sae: SAE[Any]) -> SAE[Any]:
    """As it is used here: fixed, and reading the heads' outputs side by side, as they come."""
    sae.turn_off_forward_pass_hook_z_reshaping()
    return sae.eval().requires_grad_(False)


def _load_folder(folder: Path, device: str) -> SAE[Any]:
    check_sae(folder)
    try:
        return _for_use(SAE.load_from_disk(folder, device=device))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        problem = f"{type(error).__name__} {str(error).splitlines()[0] if str(error) else ''}".strip()
        raise ArtifactError(f"{folder} holds a damaged SAE ({problem}); train it again or fetch it anew.") from None


def check_width(sae: SAE[Any], d_in: int, name: str, site: str) -> None:
    """Refuse an SAE that was trained on activations of another width.

    Raises:
        InputError: naming both widths.
    """
    if sae.cfg.d_in != d_in:
        raise InputError(
            f"{name} reads activations of width {sae.cfg.d_in}, but at {site} they have {d_in}; "
            "give an SAE of this model and site."
        )


def save(sae: SAE[Any], folder: str | Path) -> None:
    """Write cfg.json and sae_weights.safetensors, for inference, with no trace of the machine."""
    folder = Path(folder)
    device, sae.cfg.device = sae.cfg.device, "cpu"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sae.save_inference_model(folder) if isinstance(sae, TrainingSAE) else sae.save_model(folder)
    sae.cfg.device = device
    # SAELens writes the keys in an order that changes from process to process.
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


@torch.no_grad()
def inference(sae: TrainingSAE[Any]) -> SAE[Any]:
    """The SAE that `save` would write and `load` read, in memory; it shares no weight with `sae`."""
    weights = {name: tensor.detach().clone() for name, tensor in sae.state_dict().items()}
    sae.process_state_dict_for_saving_inference(weights)
    config = deepcopy(sae.cfg.get_inference_sae_cfg_dict())
    found: SAE[Any] = SAE.from_dict(config)
    found.load_state_dict(weights)
    return found.eval().requires_grad_(False)


def coefficients(sae: TrainingSAE[Any], step: int) -> dict[str, float]:
    """The loss coefficients at `step`, each grown linearly from 0 over its warm-up steps (SAELens' schedule)."""
    values = {}
    for name, coefficient in sae.get_coefficients().items():
        if not isinstance(coefficient, TrainCoefficientConfig):
            coefficient = TrainCoefficientConfig(coefficient, 0)
        done = min(1.0, step / coefficient.warm_up_steps) if coefficient.warm_up_steps else 1.0
        values[name] = coefficient.value * done
    return values


def warm_up_steps(sae: TrainingSAE[Any]) -> int:
    """Steps until every loss coefficient has its full value."""
    found = sae.get_coefficients().values()
    return max((c.warm_up_steps for c in found if isinstance(c, TrainCoefficientConfig)), default=0)


FORMULAS = (
    "calculate_aux_loss",
    "decode",
    "encode_with_hidden_pre",
    "get_activation_fn",
    "process_sae_in",
    "training_forward_pass",
)


def formulas_of(sae: TrainingSAE[Any]) -> str | None:
    """The architecture of SAELens' own whose formulas the class of `sae` has; None if it has changed one of them."""
    for name in ARCHITECTURES:
        theirs = SAE_TRAINING_CLASS_REGISTRY[name][0]
        if isinstance(sae, theirs) and all(getattr(type(sae), f) is getattr(theirs, f) for f in FORMULAS):
            return name
    return None


@torch.no_grad()
def edited(sae: SAE[Any], acts: Tensor, edit: Callable[[Tensor], Tensor]) -> Tensor:
    """x + decode(edit(f)) - decode(f), with f = encode(x): change features, keep what the SAE does not explain.

    An edit that changes nothing gives back `acts` bit by bit. For every architecture and normalisation.
    """
    x = acts.to(sae.dtype)
    before = sae.decode(sae.encode(x))
    # Encoded anew: an SAE with run-time normalisation keeps a token's scale from one encode to one decode.
    after = sae.decode(edit(sae.encode(x)))
    difference: Tensor = (after - before).to(acts.dtype)
    return acts + difference


def decode_sparse(sae: SAE[Any], features: Tensor) -> Tensor:
    """(tokens, d_in) `sae.decode` of sparse (tokens, d_sae) features, in coordinates: several times as fast.

    Dense in half precision, where the sparse product rounds after every latent.
    """
    exact = features.dtype in (torch.float32, torch.float64)
    output: Tensor = sae.decode(features if exact else features.to_dense())
    return output


@torch.no_grad()
def decoded(sae: SAE[Any], latents: Tensor) -> Tensor:
    """(n, d_in): what `decode` makes of each of (n,) latents alone, at 1.

    A row of the decoder (by its norm, where activations carry that) and the bias. Where the SAE normalises each input
    at run time, in its normalised space.
    """
    rows: Tensor = sae.W_dec[latents]
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        rows = rows / rows.norm(dim=-1, keepdim=True)
    shifted: Tensor = rows + sae.b_dec
    return shifted
