"""What a completion of a vLLM server says, and what is refused in its place.

A reply is taken only if it says by which model it was written, for which prompt, and all its token
ids: learning rests on them, and a text that is encoded again may give others.
"""

from collections.abc import Collection, Mapping
from typing import Any

from agents.engine.jobs import EngineError, Job

_MOST_SEED = (1 << 63) - 1  # what the server's whole numbers hold
_ENDED = ("stop", "length")


def completion_request(
    job: Job, model: str, stop_ids: Collection[int], *, temperature: float, top_p: float
) -> dict[str, Any]:
    """The body of a job's request.

    All that shapes the distribution is said: a server takes what is left out from the model's
    ``generation_config.json``.

    Args:
        job: What to generate.
        model: Name of the adapter, or of the base.
        stop_ids: Tokens that end a reply.
        temperature: Softmax temperature; 0 is greedy.
        top_p: Share of the probability from which tokens are drawn.
    """
    return {
        "model": model,
        "prompt": list(job.prompt_ids),
        "max_tokens": job.max_new_tokens,
        "seed": job.seed & _MOST_SEED,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "n": 1,
        "stop": list(job.stop),
        "stop_token_ids": sorted(stop_ids),
        "include_stop_str_in_output": True,
        "return_token_ids": True,
    }


def read_completion(
    data: Any, job: Job, names: Collection[str], stop_ids: Collection[int], rows: int
) -> tuple[str, tuple[int, ...]]:
    """The model that wrote a reply, and its token ids with that which ended it.

    Args:
        data: What the server replied, as JSON types.
        job: What it was asked.
        names: Of the model that was asked: any of them is right.
        stop_ids: Tokens that end a reply.
        rows: Tokens of the base.

    Raises:
        EngineError: If another model wrote it, or it is no whole reply to this job.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("choices"), list):  # pyright: ignore
        raise EngineError(f"server: got {_shown(data)} for a completion, expected choices")
    reply: Mapping[str, Any] = data
    model, choices = reply.get("model"), reply["choices"]
    if not isinstance(model, str) or model not in names:
        raise EngineError(
            f"server: {min(names)!r} was asked, and {_shown(model)} replied; expected the adapter "
            "that was named; see that nothing between here and the server changes the name"
        )
    if len(choices) != 1 or not isinstance(choices[0], Mapping):
        raise EngineError(f"server: got {len(choices)} replies to one prompt, expected one")
    choice: Mapping[str, Any] = choices[0]
    finish, given = choice.get("finish_reason"), choice.get("token_ids")
    if not isinstance(finish, str) or finish not in _ENDED:
        raise EngineError(
            f"server: a reply ended with finish_reason {_shown(finish)}, expected stop or length"
        )
    if not isinstance(given, list) or not given:
        raise EngineError(
            f"server: a reply has {_shown(given)} for token_ids, expected them, as "
            "return_token_ids asks; use vLLM 0.10.2 or later, and nothing before it that drops them"
        )
    ids: list[Any] = given
    for i in ids:
        if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < rows:
            raise EngineError(
                f"server: a reply holds the token {_shown(i)}, expected one of the base's {rows}, "
                f"0 to {rows - 1}; the server has another base model"
            )
    prompt = choice.get("prompt_token_ids", reply.get("prompt_token_ids"))
    if prompt is not None and prompt != list(job.prompt_ids):
        raise EngineError(
            f"server: it read another prompt than was sent ({_length(prompt)} tokens for "
            f"{len(job.prompt_ids)}); see that it neither cuts prompts nor adds to them"
        )
    if len(ids) > job.max_new_tokens:
        raise EngineError(
            f"server: got a reply of {len(ids)} tokens, expected at most {job.max_new_tokens}"
        )
    ended = [place for place, i in enumerate(ids) if i in stop_ids]
    if ended and ended[0] < len(ids) - 1:
        raise EngineError(
            f"server: a reply goes on after the token {ids[ended[0]]}, which ends replies; the "
            "server has another base model"
        )
    if finish == "stop" and not ended and not job.stop:
        raise EngineError(
            f"server: a reply ended with the token {ids[-1]}, expected one of {sorted(stop_ids)}; "
            "the server has another base model, or leaves the end token out"
        )
    return model, tuple(ids)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list) else 0  # pyright: ignore[reportUnknownArgumentType]


def _shown(value: Any) -> str:
    return f"{value!r:.120}"
