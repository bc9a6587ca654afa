"""What the driver says of its schedules to a person. Pure."""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from tests.chaos.streams.effects import Verdict
from tests.chaos.streams.runner import Outcome

_OF_THE_WHOLE_RUN = ("seeds", "jobs", "json", "logs")
"""Options that make no difference to a seed."""


def table(outcomes: Sequence[Outcome], seconds: float) -> str:
    """What happened, for a person."""
    total = sum((outcome.verdict for outcome in outcomes), Verdict())
    kills = sum((outcome.kills for outcome in outcomes), Counter[str]())
    lines = [f"{'schedules':<28}{len(outcomes):>9}", f"{'troubles':<28}{sum(kills.values()):>9}"]
    lines += [f"  {name:<26}{count:>9}" for name, count in sorted(kills.items())]
    for name in ("records", "lost", "duplicated", "reordered", "miscounted"):
        lines.append(f"{'effects expected' if name == 'records' else name:<28}{getattr(total, name):>9}")
    lines.append(f"{'seconds':<28}{seconds:>9.1f}")
    return "\n".join(lines)


def report(outcome: Outcome, again: str) -> str:
    """What is wrong with a schedule that is not sound, and the command that runs it alone."""
    wrong = [f"{name}: {count}" for name, count in asdict(outcome.verdict).items() if count and name != "records"]
    what = "; ".join([*wrong, *([outcome.fault] if outcome.fault else [])])
    return f"seed {outcome.seed} is not sound: {what}\n  alone: {again}"


def again(options: argparse.Namespace, usual: argparse.Namespace, seed: int) -> str:
    """The command that runs one seed of a run in the same way."""
    words = ["--seeds", str(seed)]
    for name, value in vars(options).items():
        if name in _OF_THE_WHOLE_RUN or value == getattr(usual, name):
            continue
        words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return f"make chaos ARGS={shlex.quote(shlex.join(words))}"
