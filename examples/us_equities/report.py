"""The report of the demo: one table for people, one object for programs."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from examples.us_equities.evaluation import COST_BPS, Performance
from examples.us_equities.job import Report
from runtime.supervisor import Addresses


def as_dict(report: Report, mesh: Addresses) -> dict[str, Any]:
    """The report for scripts. Times in milliseconds unless the name says otherwise."""
    books, worth = report.books, report.evaluation
    return {
        "lost": sum(stage.lost for stage in books.stages),
        "duplicated": sum(stage.duplicated for stage in books.stages),
        "balanced": books.balanced,
        "replay_s": report.replay_s,
        "stages": [
            {
                "stream": stage.stream,
                "expected": stage.expected,
                "records": stage.records,
                "lost": stage.lost,
                "duplicated": stage.duplicated,
                "p50_ms": stage.percentile_ms(50),
                "p99_ms": stage.percentile_ms(99),
            }
            for stage in books.stages
        ],
        "look_ahead": books.look_ahead,
        "vectors_equal_to_bulk": books.equal_to_bulk,
        "complete_vectors": books.complete,
        "prediction": report.prediction,
        "grpc_ms": report.grpc_ms,
        "rest_ms": report.rest_ms,
        "promote_ms": report.promote_ms,
        "rollback_ms": report.rollback_ms,
        "versions": report.versions,
        "gateway": mesh.gateway,
        "feature": mesh.feature,
        "inference": mesh.inference,
        "mlops": mesh.mlops,
        "hit_rate": worth.hit_rate,
        "hit_count": worth.hit_count,
        "cost_bps": COST_BPS,
        "sharpe": worth.strategy.sharpe,
        "buy_and_hold_sharpe": worth.buy_and_hold.sharpe,
    }


def render(console: Console, report: Report, mesh: Addresses) -> None:
    """Print the tables, and where the mesh is."""
    books = report.books
    stages = Table(title="The way of the data", title_justify="left")
    for column in ("stage", "in", "out", "lost", "duplicated", "p50 ms", "p99 ms"):
        stages.add_column(column, justify="left" if column == "stage" else "right")
    incoming = "-"
    for stage in books.stages:
        p50, p99 = stage.percentile_ms(50), stage.percentile_ms(99)
        stages.add_row(
            stage.stream,
            incoming,
            f"{stage.records:,}",
            _zero(stage.lost),
            _zero(stage.duplicated),
            "-" if p50 is None else f"{p50:.0f}",
            "-" if p99 is None else f"{p99:.0f}",
        )
        incoming = f"{stage.records:,}"
    lost, duplicated = (sum(getattr(s, what) for s in books.stages) for what in ("lost", "duplicated"))
    p50, p99 = np.percentile(books.end_to_end_ms, [50, 99]) if books.end_to_end_ms.size else (np.nan, np.nan)
    stages.add_row("tick to signal", "", "", _zero(lost), _zero(duplicated), f"{p50:.0f}", f"{p99:.0f}", style="bold")
    console.print(Group(stages, _facts(report, mesh), _worth(report)))


def _zero(count: int) -> Text:
    return Text(f"{count:,}", style="green" if count == 0 else "bold red")


def _facts(report: Report, mesh: Addresses) -> Table:
    books = report.books
    facts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    total = sum(stage.records for stage in books.stages)
    facts.add_row("replay", f"{report.replay_s:.1f} s, {total / report.replay_s:,.0f} records/s through all stages")
    partial = books.stages[2].records - books.complete
    facts.add_row("without a signal", f"{partial:,} vectors of the sessions in which the features' windows fill")
    facts.add_row("look-ahead", f"{books.look_ahead} of {books.stages[2].records:,} vectors use a later value")
    facts.add_row("online = bulk", f"{books.equal_to_bulk:,} of {books.complete:,} complete vectors, bit for bit")
    facts.add_row("receipts", f"{books.unreceipted} of {books.stages[3].records:,} signals lack one")
    facts.add_row(
        "prediction", f"{report.prediction:+.6f} by gRPC ({report.grpc_ms:.1f} ms) and REST ({report.rest_ms:.1f} ms)"
    )
    facts.add_row("hot swap", f"promote {report.promote_ms:.0f} ms, rollback {report.rollback_ms:.0f} ms, all replicas")
    facts.add_row("REST", f"{mesh.gateway} (documentation at {mesh.gateway}/docs)")
    facts.add_row("gRPC", f"features {mesh.feature}, inference {mesh.inference}, mlops {mesh.mlops}")
    return facts


def _worth(report: Report) -> Table:
    worth = report.evaluation
    table = Table(
        title=f"What the signals were worth, after costs of {COST_BPS:g} bps a trade, executed one session late",
        title_justify="left",
    )
    for column in ("", "Sharpe", "return a year", "max drawdown", "turnover a day"):
        table.add_column(column, justify="left" if not column else "right")

    def row(name: str, result: Performance) -> None:
        table.add_row(
            name,
            f"{result.sharpe:.2f}",
            f"{result.annual_return:.1%}",
            f"{result.max_drawdown:.1%}",
            f"{result.turnover:.1%}",
        )

    row("signals, long and short", worth.strategy)
    row("buy and hold, equal weights", worth.buy_and_hold)
    table.caption = (
        f"hit rate {worth.hit_rate:.1%} of {worth.hit_count:,} LONG and SHORT signals. The twenty symbols are "
        "some that survived to 2022, which flatters buy-and-hold most."
    )
    table.caption_justify = "left"
    return table
