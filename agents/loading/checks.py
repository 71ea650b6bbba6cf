"""What a base model must be, so that it is decoded and learned from as Transformers would do it."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from agents.loading.template_trial import try_template
from agents.plain_files import refuse_holes
from agents.prompts import PromptError, check_template
from populora_env.errors import PopuloraError

_ATTENTION_KINDS = {"full_attention", "sliding_attention"}
# What models do to the logits that leave their output layer, and the value that does nothing.
_LOGIT_OPTIONS = {
    "final_logit_softcapping": None,
    "logits_scaling": 1.0,
    "logit_scale": 1.0,
    "lm_head_multiplier": 1.0,
}
_DECODERS = "expected a decoder such as Llama, Mistral, Qwen2, Qwen3 or Gemma"
_MOST_LAYERS = 400
_MOST_PER_BYTE = 8  # weights that a byte of a checkpoint may stand for, however it is packed
_SPARE = 1 << 20  # besides: tied output layers and tables that are no part of a checkpoint


class ModelError(PopuloraError, ValueError):
    """A base model that cannot be found or read."""


def backbone(model: Any) -> nn.Module:
    """The model without its output layer: token ids in, hidden states ``[rows, T, width]`` out."""
    return getattr(model, model.base_model_prefix)


def window(config: Any) -> int | None:
    """The sliding window of a model's layers, where one of them has any."""
    kinds: list[str] | None = getattr(config, "layer_types", None)
    if kinds is not None and "sliding_attention" not in kinds:
        return None
    if getattr(config, "use_sliding_window", True) is False:
        return None
    return getattr(config, "sliding_window", None)


def _turns(config: Any) -> list[dict[str, Any]]:
    """How a model turns its positions: settings for all layers, or for each kind of them."""
    scaling: Any = (
        getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    )
    return [scaling, *(part for part in scaling.values() if isinstance(part, dict))]


def switch(config: Any) -> int | None:
    """The length above which a model turns its positions otherwise, where there is one."""
    limits: list[int | None] = []
    for part in _turns(config):
        if {part.get("rope_type"), part.get("type")} & {"longrope", "su", "dynamic"}:
            original = part.get("original_max_position_embeddings")
            original = original or getattr(config, "original_max_position_embeddings", None)
            limits.append(original or config.max_position_embeddings)
    return min((limit for limit in limits if limit), default=None)


def check_rope(model: Any, name: str) -> None:
    """Refuse a model whose positions turn by angles that are not numbers.

    Its attention may still give numbers, since the kernels take what is no number for masked.
    """
    thetas = [part["rope_theta"] for part in _turns(model.config.get_text_config())
              if part.get("rope_theta") is not None]  # fmt: skip
    for theta in thetas:
        if not isinstance(theta, int | float) or not 1 <= theta < math.inf:
            raise ModelError(
                f"model: {name!r} says rope_theta {theta!r:.60}, expected a finite number of at "
                "least 1; mend its config.json"
            )
    for where, angles in model.named_buffers():
        if angles.is_meta:  # of a model without weights: nobody turns by them here
            continue
        if where.endswith("inv_freq") and not angles.isfinite().all():
            raise ModelError(
                f"model: {name!r} turns positions by angles that are not numbers ({where}); mend "
                "the rope_parameters in its config.json"
            )


def stored_bytes(path: str) -> int | None:
    """Bytes of a folder's weights; None for a hub id, whose files are not there yet.

    Raises:
        ModelError: If something in the folder is neither a file nor a folder (a pipe never ends),
            or mostly holes.
    """
    folder = Path(path)
    if not folder.is_dir():
        return None
    files = [entry for entry in folder.iterdir() if entry.exists() and not entry.is_dir()]
    if odd := [file.name for file in files if not file.is_file()]:
        raise ModelError(f"model: {odd[0]!r} in {path!r} is no regular file")
    for file in files:
        refuse_hollow(file)
    weights = (".safetensors", ".bin", ".pt")
    return sum(file.stat().st_size for file in files if file.suffix in weights)


def refuse_hollow(file: Path) -> None:
    """Refuse a regular file that is mostly holes.

    Raises:
        ModelError: If it is.
        OSError: If it cannot be read.
    """
    with file.open("rb") as opened:
        try:
            refuse_holes(opened.fileno(), file.name)
        except ValueError as error:
            raise ModelError(f"model: {str(file)!r}: {error}; expected a whole file") from error


def check_complete(info: Any, name: str) -> None:
    """Refuse a checkpoint that leaves weights to chance; tied weights are not missing."""
    missing = sorted(map(str, info["missing_keys"]))
    others = sorted(str(key[0]) for key in info["mismatched_keys"])
    for keys, fault in ((missing, "lacks"), (others, "has another shape for")):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise ModelError(
                f"model: {name!r} {fault} the weights {keys[0]}{more}, which would be random; "
                "expected a checkpoint of the whole model that config.json describes"
            )


def check_size(config: Any, stored: int, name: str) -> None:
    """Refuse settings of a model that is far larger than its checkpoint, before room is taken.

    Args:
        config: Settings of a causal language model.
        stored: Bytes of the checkpoint's files.
        name: What the user asked for.

    Raises:
        ModelError: If so.
        Exception: Whatever Transformers raises for settings that make no model.
    """
    layers = getattr(config.get_text_config(), "num_hidden_layers", 0)
    if not isinstance(layers, int) or not 0 <= layers <= _MOST_LAYERS:
        raise ModelError(
            f"model: {name!r} says num_hidden_layers {layers!r}, expected at most {_MOST_LAYERS}"
        )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    weights = sum(part.numel() for parts in (model.parameters(), model.buffers()) for part in parts)
    if weights > _MOST_PER_BYTE * stored + _SPARE:
        raise ModelError(
            f"model: {name!r} describes {weights:,} weights, but its files hold {stored:,} bytes; "
            "expected a checkpoint of the whole model that config.json describes"
        )


def check_vocabulary(model: Any, tokenizer: Any, name: str) -> None:
    """Refuse a model without an output layer, or whose tokenizer has tokens that it has not.

    Raises:
        ModelError: If so, or if the chat template fails.
    """
    what = f"model: {name!r} ({model.config.model_type})"
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer is not None:
        try:
            try_template(tokenizer)
            check_template(tokenizer)  # one that fails is said now
        except PromptError as error:
            raise ModelError(f"model: {name!r}: {error}") from error
        highest = max(tokenizer.get_vocab().values(), default=0)
        if highest >= rows:
            raise ModelError(
                f"{what} embeds {rows} tokens, but its tokenizer has ids up to {highest}; expected "
                "the model's own tokenizer"
            )
    head = model.get_output_embeddings()
    if head is None or not hasattr(model, model.base_model_prefix or "?"):
        raise ModelError(f"{what} has no output layer over a backbone; {_DECODERS}")


def check_output(model: Any, name: str) -> None:
    """Refuse a model whose logits are not its output layer's of its last hidden states.

    Raises:
        ModelError: If so.
    """
    what = f"model: {name!r} ({model.config.model_type})"
    expected, head = _DECODERS, model.get_output_embeddings()
    embedding = model.get_input_embeddings().weight
    rows = embedding.shape[0]
    ids = torch.linspace(0, rows - 1, 7, device=embedding.device).long()[None]
    with torch.inference_mode():
        try:
            logits = model(input_ids=ids, use_cache=False).logits.float()
            ours = head(backbone(model)(input_ids=ids, use_cache=False)[0]).float()
        except Exception as error:  # a model of another kind fails in any way
            said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise ModelError(
                f"{what} cannot be run on a row of tokens ({said}); {expected}"
            ) from error
    if logits.isnan().any():
        raise ModelError(
            f"{what} gives logits that are not numbers; expected a checkpoint whose weights and "
            "settings are whole"
        )
    if ours.shape != logits.shape or (ours - logits).abs().max() > 2e-2 * logits.abs().max():
        raise ModelError(f"{what} does more to its logits than its one output layer; {expected}")
    _check_packing(backbone(model), ids, what, expected)


def _check_packing(body: nn.Module, ids: torch.Tensor, what: str, expected: str) -> None:
    """Refuse a model that cannot be told which tokens of a row see each other, and where they are.

    Two texts in one row must come out as each does alone. Where positions are made from a mask of
    two dimensions (ALiBi), or the model ignores what it is given, they do not.
    """
    first, second = 4, ids.shape[1]
    row = torch.cat([ids[:, :first], ids], 1)
    positions = torch.cat([torch.arange(first), torch.arange(second)]).to(ids.device)[None]
    text = torch.tensor([0] * first + [1] * second, device=ids.device)
    seen = torch.ones(len(text), len(text), dtype=torch.bool, device=ids.device).tril()
    seen &= text[:, None] == text
    dtype = next(body.parameters()).dtype
    dtype = dtype if dtype.is_floating_point else torch.float32
    mask = torch.zeros(seen.shape, dtype=dtype, device=ids.device)
    mask.masked_fill_(~seen, torch.finfo(dtype).min)
    with torch.inference_mode():
        alone = body(input_ids=ids, use_cache=False)[0].float()
        try:
            packed = body(
                input_ids=row,
                position_ids=positions,
                attention_mask=mask[None, None],
                use_cache=False,
            )[0][:, first:].float()
        except Exception as error:  # a model that takes no such arguments fails in any way
            first_line = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise ModelError(
                f"{what} cannot have several texts in one row ({first_line[:200]}); {expected}"
            ) from error
    if (packed - alone).norm() > 0.1 * alone.norm():
        raise ModelError(f"{what} mixes up texts that share a row; {expected}")


def check_kind(model: Any, name: str) -> None:
    """Refuse models that decoding and learning would get wrong.

    Both take logits straight from the output layer, give masks that only PyTorch's own attention
    reads, and keep keys and values of every token.
    """
    config = model.config.get_text_config()
    what = f"model: {name!r} ({config.model_type})"
    expected = "expected a model such as Llama, Mistral, Qwen2, Qwen3 or Gemma"
    kinds = set(getattr(config, "layer_types", None) or ()) - _ATTENTION_KINDS
    if kinds:
        raise ModelError(f"{what} has layers of kind {min(kinds)}; {expected}")
    if config._attn_implementation != "sdpa":
        raise ModelError(
            f"{what} computes attention by {config._attn_implementation!r}, expected 'sdpa', "
            "without which prompts of different lengths cannot share a batch; load it with "
            "attn_implementation='sdpa' where it allows that"
        )
    for option, plain in _LOGIT_OPTIONS.items():
        value = getattr(config, option, None)
        if value is not None and value != plain:
            raise ModelError(
                f"{what} changes its logits after its output layer ({option} is {value}); "
                f"{expected}"
            )
