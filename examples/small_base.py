"""Train the small base model on which studies of many runs are played.

What a population buys shows over ten seeds and more, and that many runs of a real language model
take days on a laptop. This makes a transformer of half a million parameters that half knows
arithmetic and has five ways to begin a reply. How often each is right depends on the kind of
problem; the commonest is never the best one. Adapters can learn which way is good for what, by
sampling, as larger models learn to write a calculation down. A run of some thousand replies takes
seconds. What is found is about the method at this size, not about language models in general.

Without arguments it is a smoke test of seconds; `--full --to studies/small-base` is the model that
the files in `examples/studies` name.
"""

import argparse
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from agents.loading.models import load_base
from agents.measuring.evaluate import evaluate
from agents.population import BASE, LoraPopulation
from populora_env import Problem, load_problems
from populora_env.keys import generator
from populora_env.prompts import solve_prompt

PROBLEMS = (
    "procedural:2*chain_sum(max_terms=2,max_digits=1)+chain_sum(max_terms=2,max_digits=2)"
    "+2*products(max_terms=2,max_digits=1)+products(max_terms=2,max_digits=2)"
    "+chain_sum(max_terms=3,max_digits=1)+gcd(max_value=20)"
)
# Ways to begin a reply: how often the base does, and how far off it is when it is wrong.
WAYS = {
    "Guess": (0.4, 2),
    "Quickly": (0.25, 1),
    "Carefully": (0.15, -1),
    "By heart": (0.12, 10),
    "Step by step": (0.08, -2),
}
RIGHT = (0.1, 0.25, 0.4, 0.6, 0.95)  # how often each way is right, in an order of each kind's own
PIECES = r" ?[A-Za-z]+| ?\d| ?[^\w\s]|\s"
HOPELESS = 5  # the kind of products of two digits
TEMPLATE = (
    "{% for message in messages %}{{ ('<ask>' if message['role'] != 'assistant' else '<reply>') + "
    "message['content'] + ('<end>' if message['role'] == 'assistant' else '') }}{% endfor %}"
    "{% if add_generation_prompt %}<reply>{% endif %}"
)


Batches = Iterator[tuple[Tensor, Tensor, Tensor]]


def kind_of(problem: Problem) -> int:
    """Which of six kinds of problem it is, as can be read from it."""
    terms = re.findall(r"\d+", problem.prompt)
    if "Divisor" in problem.prompt:
        return 0
    if len(terms) > 2:
        return 1
    return 2 + 2 * ("multiplication" in problem.prompt) + (max(map(len, terms)) > 1)


def raised(seed: int) -> Iterator[tuple[str, str]]:
    """Pairs whose reply begins in one of five ways, each right more often for some kinds."""
    rng = generator(seed, "small base", 0)
    shares = [share for share, _ in WAYS.values()]
    # The commonest way is never the best one.
    orders = [[int(rng.integers(0, 3)), *rng.permutation(4)] for _ in range(6)]
    for problem in load_problems(PROBLEMS, seed=seed + 1001):
        way = int(rng.choice(len(WAYS), p=shares))
        order = orders[kind_of(problem)]
        right = RIGHT[order[0] if way == 0 else order[way] + 1]
        answer = int(problem.answer)
        if rng.random() > right:
            answer += list(WAYS.values())[way][1]
        yield solve_prompt(problem), f"{list(WAYS)[way]}: the answer is {answer}."


def replies(seed: int) -> Iterator[tuple[str, str]]:
    """Pairs of a prompt and the right reply, but for products of two digits: out of reach."""
    for problem in load_problems(PROBLEMS, seed=seed + 1000):
        if kind_of(problem) != HOPELESS:
            yield solve_prompt(problem), f"The answer is {problem.answer}."


def tokenizer_of(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """One that knows the words of these texts, and digits and signs with and without a space."""
    words = {piece for text in texts for piece in re.findall(PIECES, text)}
    signs = {before + sign for sign in "0123456789+-*/=.,:()>'?" for before in ("", " ")}
    special = ["<unknown>", "<end>", "<ask>", "<reply>"]
    vocabulary = {word: i for i, word in enumerate([*special, *sorted(words | signs)])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token=special[0]))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), "isolated")
    raw.decoder = decoders.Fuse()
    raw.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    made = PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token=special[0], eos_token=special[1], pad_token=special[1]
    )
    made.chat_template = TEMPLATE
    return made


def batches(
    tokenizer: PreTrainedTokenizerFast, pairs: Iterator[tuple[str, str]], size: int
) -> Batches:
    """Token ids, attention mask and labels, ``[size, length]`` each; only replies are labelled."""
    while some := list(islice(pairs, size)):
        asked = [tokenizer.encode(f"<ask>{prompt}<reply>") for prompt, _ in some]
        said = [tokenizer.encode(f"{reply}<end>") for _, reply in some]
        length = max(len(a) + len(b) for a, b in zip(asked, said, strict=True))
        ids = torch.full((len(some), length), tokenizer.pad_token_id)
        labels = torch.full((len(some), length), -100)
        mask = torch.zeros((len(some), length), dtype=torch.long)
        for row, (a, b) in enumerate(zip(asked, said, strict=True)):
            ids[row, : len(a) + len(b)] = torch.tensor([*a, *b])
            labels[row, len(a) : len(a) + len(b)] = torch.tensor(b)
            mask[row, : len(a) + len(b)] = 1
        yield ids, mask, labels


def train(model: LlamaForCausalLM, data: Batches, steps: int, learning_rate: float) -> float:
    """Train in place; returns the mean loss of the last tenth of the steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    losses, began = [], time.monotonic()
    for step, (ids, mask, labels) in enumerate(islice(data, steps), 1):
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % max(steps // 10, 1) == 0:
            mean = np.mean(losses[-max(steps // 10, 1) :])
            print(
                f"step {step:5}/{steps}  loss {mean:.3f}  {time.monotonic() - began:.0f} s",
                flush=True,
            )
    return float(np.mean(losses[-max(steps // 10, 1) :]))


def untrained(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Half a million parameters as they are drawn."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=96,
                intermediate_size=256,
                num_hidden_layers=4,
                num_attention_heads=4,
                max_position_embeddings=512,
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                tie_word_embeddings=True,
            )
        )


def look(folder: Path, seed: int, count: int) -> None:
    """Say what the model in a folder gets right, and show how it answers."""
    population = LoraPopulation(load_base(str(folder)), 1)
    problems = load_problems(PROBLEMS, seed=seed).distinct(count)
    seen = evaluate(population.greedy(), problems, agents=(BASE,), max_new_tokens=24)
    score = seen.scores[BASE]
    for problem, reply in zip(problems[:8], score.replies, strict=False):
        print(f"  {problem.prompt!r} {problem.answer}: {reply}")
    print(f"greedy, {count} problems: {np.mean([grade.correct for grade in score.grades]):.3f}")


def main() -> None:
    """Train, write, and say what the model gets right."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the model that study files name")
    parser.add_argument("--to", type=Path, help="the folder (default: one that is thrown away)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    steps, size = (3000, 48) if given.full else (8, 16)
    first, second = replies(given.seed), raised(given.seed)
    seen = [
        pair for pairs in (first, second) for pair in islice(pairs, 2000 if given.full else 200)
    ]
    tokenizer = tokenizer_of([text for pair in seen for text in pair])
    model = untrained(tokenizer, given.seed)
    count = sum(weights.numel() for weights in model.parameters())
    print(f"{count:,} parameters, {len(tokenizer)} tokens")
    train(model, batches(tokenizer, first, size), steps, 3e-3)
    train(model, batches(tokenizer, second, size), int(0.3 * steps), 1e-3)
    with tempfile.TemporaryDirectory() as thrown_away:
        folder = given.to or Path(thrown_away)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        look(folder, given.seed, 256 if given.full else 8)


if __name__ == "__main__":
    main()
