"""Checking replies against known answers."""

from populora_env.grading.grader import Grader, opened
from populora_env.grading.worker import WorkerError

__all__ = ["Grader", "WorkerError", "opened"]
