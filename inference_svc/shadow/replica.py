"""The replica's side of shadow mode: who is shadowed by whom, and how that stands.

All of it happens on the event loop, and none of it is waited for by an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import structlog

from inference_svc import metrics
from inference_svc.lane import Lane
from inference_svc.registry import LoadedModel, Registry, Serving
from inference_svc.settings import InferenceSettings
from inference_svc.shadow import frames
from inference_svc.shadow.accounts import Account
from inference_svc.shadow.asks import Asks, Elsewhere
from inference_svc.shadow.frames import Kind
from inference_svc.shadow.link import Link
from inference_svc.shadow.tap import Assignment, Tap
from inference_svc.taps import Taps
from modelstore import manifest
from modelstore.layouts import check_columns
from modelstore.replicas import Shadow as Standing
from runtime.errors import FailedPreconditionError

log = structlog.get_logger()

_FLOAT64_BYTES = 8


class Shadow:
    """Follows the deployments that this replica serves; the shadow process runs while one of them has a challenger."""

    def __init__(self, settings: InferenceSettings, registry: Registry, taps: Taps) -> None:
        self._registry = registry
        self._taps = taps
        self._limit_bytes = settings.shadow_buffer_kb * 1024
        self.link = Link(settings, on_up=self._came_up, on_down=self._went_down, on_frame=self._heard)
        self.asks = Asks(self.link.send, lambda: self.link.up)
        self._tap = Tap(lambda frame: self.link.send(frame, self._limit_bytes), lambda: self.link.up)
        self._assignments: dict[str, Assignment] = {}
        self._accounts: dict[str, Account] = {}
        self._slots = 0
        self._loaded: dict[str, LoadedModel] = {}
        self._errors: dict[str, str] = {}
        self.on_change: Callable[[], None] = lambda: None
        """Called when a challenger has become ready, or has ceased to be."""

    async def run(self) -> None:
        """Keep the shadow process up while it is wanted, until `stop` is called."""
        await self.link.run()

    def stop(self) -> None:
        """Make `run` end the process, once it has what was taken so far, and return."""
        self._tap.flush()
        self.link.stop()

    def deployed(self, serving: Serving) -> None:
        """Go over to a deployment that the replica serves now."""
        strategy = serving.strategy
        self._assignments.pop(strategy, None)
        if serving.challenger_version:
            self._slots += 1
            account = self._accounts.setdefault(strategy, Account(strategy))
            self._assignments[strategy] = Assignment(
                self._slots,
                strategy,
                serving.generation,
                serving.champion,
                serving.challenger_version,
                account,
                most_rows=self._limit_bytes // (serving.champion.model.columns * _FLOAT64_BYTES),
            )
        wanted = {each.challenger_version for each in self._assignments.values()}
        self._loaded = {version: kept for version, kept in self._loaded.items() if version in wanted}
        self._errors = {version: why for version, why in self._errors.items() if version in wanted}
        self._tap.by_champion = {each.champion.version: each for each in self._assignments.values()}
        self._taps.batch, self._taps.vectors = (self._tap.batch, self._tap.vectors) if wanted else (None, None)
        self.link.want(bool(wanted))
        self._assign()
        self._settle()

    def standing(self) -> Mapping[str, Standing]:
        """How each strategy with a challenger stands."""
        return {
            strategy: Standing(
                each.challenger_version,
                each.ready,
                "" if each.ready else self._why_not(each),
                each.account.scored,
                sum(each.account.dropped.values()),
            )
            for strategy, each in self._assignments.items()
        }

    def _why_not(self, assignment: Assignment) -> str:
        loaded = self._loaded.get(assignment.challenger_version)
        if loaded is None:
            return self._errors.get(assignment.challenger_version, "")
        try:
            check_columns(loaded.manifest, assignment.champion.manifest)
        except FailedPreconditionError as error:  # another champion was promoted, of other columns
            return f"{error.reason}: {error.message}"
        return ""

    def _settle(self) -> None:
        """Hold what is ready, and what is served under the challengers' names, against what is loaded."""
        for strategy, assignment in self._assignments.items():
            loaded = self._loaded.get(assignment.challenger_version)
            assignment.ready = loaded is not None and not self._why_not(assignment)
            serving = self._registry.current.servings[strategy]
            if serving.challenger is not loaded:
                self._registry.swap(replace(serving, challenger=loaded))
        self.on_change()

    def _assign(self) -> None:
        slots = [
            {
                "slot": each.slot,
                "strategy": each.strategy,
                "generation": each.generation,
                "champion_version": each.champion.version,
                "champion_threshold": each.champion.manifest.signal_threshold,
                "challenger_version": each.challenger_version,
            }
            for each in self._assignments.values()
        ]
        self.link.send(frames.note({"assign": slots}))

    def _came_up(self) -> None:
        self._assign()

    def _went_down(self, why: str) -> None:
        self._tap.lose()
        self.asks.lose()
        for account in self._accounts.values():
            account.lose()
        self._loaded.clear()
        self._errors = {each.challenger_version: why for each in self._assignments.values()}
        self._settle()  # an empty reason: it was to end, and is started again for who has come meanwhile

    def _heard(self, kind: Kind, body: bytes) -> None:
        if kind is Kind.ANSWER:
            self.asks.answered(*frames.read_answer(body))
            return
        note = frames.read_note(body)
        if "refused" in note:
            self.asks.refused(note["refused"], note["error"])
        elif "report" in note:
            for strategy, counts in note["report"].items():
                self._count(strategy, counts)
        elif "loaded" in note:
            version = note["loaded"]
            described = manifest.of_document(note["manifest"])
            self._errors.pop(version, None)
            self._loaded[version] = LoadedModel(
                version, described, Elsewhere(len(described.feature_names)), note["loaded_at_us"], Lane()
            )
            self._settle()
        else:
            self._errors[note["failed"]] = note["error"]
            for assignment in self._assignments.values():
                if assignment.challenger_version == note["failed"]:
                    metrics.LOAD_ERRORS.labels(assignment.strategy).inc()
            self._settle()

    def _count(self, strategy: str, counts: dict[str, Any]) -> None:
        account = self._accounts[strategy]
        account.score(counts["scored"])
        for reason, rows in counts["dropped"].items():
            account.drop(reason, rows)
        metrics.SHADOW_PAIRS.labels(strategy).inc(counts["written"])
        metrics.SHADOW_PAIRS_LOST.labels(strategy).inc(counts["lost"])
        metrics.CHALLENGER_SECONDS.add(strategy, counts["calls"], counts["seconds"])
