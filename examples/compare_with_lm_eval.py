"""The gsm8k task of lm-evaluation-harness and ours, side by side on the same problems.

    pip install "lm-eval[hf]==0.4.13"
    python examples/compare_with_lm_eval.py 50 [MODEL FOLDER]

Same model, prompt, greedy decoding and limit of 256 tokens; the harness reads local copies of
GSM8K, so nothing is loaded from a hub. It decodes one problem at a time, we many, so replies may
differ in the last bit of a product; how many do is said at the end.
"""

import importlib.util
import os
import sys
from pathlib import Path

from agents import LoraPopulation
from agents.measuring.benchmark import benchmark
from populora_env import load_problems

DATA = Path(os.environ.setdefault("POPULORA_DATA", "../shared/data"))
RULES = {"gsm8k-strict": "strict-match", "gsm8k-flexible": "flexible-extract"}


def harness(folder: str, device: str, limit: int) -> dict:
    """Return position to the reply, and to whether each rule calls it right."""
    import lm_eval
    import yaml

    task = Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml"
    files = {part: str(DATA.resolve() / f"gsm8k_{part}.jsonl") for part in ("train", "test")}
    local = {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": files}}
    done = lm_eval.simple_evaluate(
        "hf",
        {"pretrained": folder, "dtype": "float32"},
        [{**yaml.safe_load(task.read_text()), **local}],
        batch_size=1,
        device=device,
        limit=limit,
        bootstrap_iters=0,
    )
    found = {}
    for sample in done["samples"]["gsm8k"]:
        row = found.setdefault(sample["doc_id"], {"reply": sample["resps"][0][0]})
        row[sample["filter"]] = bool(sample["exact_match"])
    return found


if __name__ == "__main__":
    missing = [
        f"pip install {n}"
        for n in ("lm-eval[hf]==0.4.13",)
        if not importlib.util.find_spec("lm_eval")
    ]
    if not (DATA / "gsm8k_train.jsonl").is_file():
        missing.append("set POPULORA_DATA to a folder with gsm8k_train.jsonl and gsm8k_test.jsonl")
    if missing:
        print("nothing to compare; first:", "; ".join(missing))
        sys.exit(0)
    limit = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    population = LoraPopulation.from_pretrained(
        sys.argv[2] if len(sys.argv) > 2 else "embedded", size=1, rank=1, max_rows=10
    )
    problems = load_problems("gsm8k", split="test", limit=limit)
    ours = benchmark(population, list(problems), ["base"], preset="gsm8k-5shot-v1")
    population.lora.detach()
    theirs = harness(population.base.path, str(population.base.device), limit)
    replies = [rows[0] for rows in ours.replies["base"]]
    print(f"{'rule':16}{'ours':>8}{'lm-eval':>9}{'same verdict':>14}")
    for rule, name in RULES.items():
        right = [row.marks[rule][1] for row in replies]
        other = [theirs[i][name] for i in range(limit)]
        same = sum(a == b for a, b in zip(right, other, strict=True))
        print(f"{rule:16}{sum(right) / limit:8.3f}{sum(other) / limit:9.3f}{same:9} of {limit}")
        assert same == limit, f"{rule}: {limit - same} verdicts differ"
    equal = sum(row.reply == theirs[i]["reply"] for i, row in enumerate(replies))
    print(f"replies equal to the letter: {equal} of {limit}")
