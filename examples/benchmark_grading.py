"""What grading costs: 100,000 ordinary numeric answers in this process, and mathematical ones."""

import random
import time

from populora_env import Grader, Problem

ANSWERS = 100_000
WORK = "She sells 16 - 3 - 4 = <<16-3-4=9>>9 eggs for 2 dollars each, 9 * 2 = 18 in all.\n" * 4
ENDINGS = (
    "#### {}",
    "The answer is {}.",
    "Answer: {} dollars",
    r"So she makes \boxed{{{}}}.",
    "That makes ${} every day.",
    "x = {}.00",
)
EXPRESSIONS = (
    ("x^2-1", "(x-1)(x+1)"),
    (r"11\sqrt{2}", r"\sqrt{242}"),
    (r"\frac{\pi}{6}", r"\frac{2\pi}{12}"),
    ("(2,\\infty)", "x > 2"),
    ("y = 2x + 3", "y = 3 + 2x"),
)

draw = random.Random(0)
problems = [Problem.create(f"Problem {i}", str(draw.randint(1, 5000))) for i in range(1000)]
pairs = [
    (
        problem := problems[i % 1000],
        WORK + ENDINGS[i % 6].format(f"{int(problem.answer) + i % 2:,}"),
    )
    for i in range(ANSWERS)
]
with Grader() as grader:
    begin = time.process_time()
    grades = grader.grade_many(pairs)
    seconds = time.process_time() - begin
    right = sum(grade.correct is True for grade in grades)
    strict = sum(grade.strict is True for grade in grades)
    print(
        f"{ANSWERS:,} numeric answers {seconds:6.2f} s of CPU ({right:,} right, {strict:,} strict)"
    )

    formulas = [
        (Problem.create("?", gold, "math"), rf"\boxed{{{answer}}}") for gold, answer in EXPRESSIONS
    ] * 20
    grader.grade(*formulas[0])  # starts the worker process
    begin = time.perf_counter()
    right = sum(grade.correct is True for grade in grader.grade_many(formulas))
    seconds = time.perf_counter() - begin
    print(f"{len(formulas):7} expressions      {seconds:6.2f} s  ({right} right)")
