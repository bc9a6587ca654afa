"""Keeps the registry at what is deployed, and tells the board of replicas how far it is.

A new generation is loaded and warmed in full before the pointer moves; until then, and if it cannot be loaded, the old
one goes on serving. What is in memory is never loaded again, so a rollback is a pointer swap. With Redis away nothing
changes here: what is served is served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any, Protocol

import structlog
from redis.exceptions import RedisError

from inference_svc import metrics
from inference_svc.loader import Loader
from inference_svc.registry import LoadedModel, Registry, Serving
from modelstore.deployments import Deployment, DeploymentStore
from modelstore.replicas import ReplicaBoard, Served, Shadow
from runtime.errors import QuantmeshError, UnavailableError
from runtime.process import ended

log = structlog.get_logger()

HEARTBEAT_S = 0.5
TTL_MS = 2_500
"""A replica that is silent for so long is not waited for."""

_FIRST_RETRY_S = 0.25
_LAST_RETRY_S = 10.0


class Challengers(Protocol):
    """Who scores with challengers: what `inference_svc.shadow.replica.Shadow` does."""

    on_change: Callable[[], None]
    """Called when there is news of a challenger."""

    def deployed(self, serving: Serving) -> None:
        """Go over to a deployment that the replica serves now."""

    def standing(self) -> Mapping[str, Shadow]:
        """How each strategy with a challenger stands."""


class Follower:
    """Follows the deployments: `start`, then `listening`, then `run`."""

    def __init__(
        self,
        deployments: DeploymentStore,
        board: ReplicaBoard,
        loader: Loader,
        registry: Registry,
        replica_id: str,
        challengers: Challengers | None = None,
    ) -> None:
        self._deployments = deployments
        self._board = board
        self._loader = loader
        self._registry = registry
        self._replica_id = replica_id
        self._challengers = challengers
        self._address = ""
        self._reported = True
        self._wanted: dict[str, Deployment] = {}
        self._errors: dict[str, str] = {}
        self._versions: dict[str, asyncio.Task[LoadedModel]] = {}
        self._pursuits: dict[str, asyncio.Task[None]] = {}
        self._broken: list[asyncio.Task[None]] = []
        self._news = asyncio.Event()
        self._next_swap = asyncio.Event()
        self._ended = asyncio.Event()
        if challengers is not None:
            challengers.on_change = self._news.set

    async def start(self) -> None:
        """Enter the board, then try once to load what is deployed, until that is what was read last; `run` goes on
        trying.

        On the board first: from then on, whoever promotes waits for this replica, so that it cannot begin to serve
        what was demoted while it loaded. Raises UnavailableError (REDIS_UNAVAILABLE) when Redis does not answer.
        """
        try:
            await self._board.report(self._replica_id, self._address, {}, {}, TTL_MS)
            reporting = asyncio.create_task(self._keep_reporting())
            try:
                while (present := {each.strategy: each for each in await self._deployments.all()}) != self._wanted:
                    news = [each for each in present.values() if each != self._wanted.get(each.strategy)]
                    self._wanted = present
                    await asyncio.gather(*map(self._attempt, news))
            finally:
                await ended(reporting)
        except (RedisError, OSError) as error:
            raise UnavailableError(f"cannot follow the deployments: {error}", reason="REDIS_UNAVAILABLE") from error

    async def listening(self, address: str) -> None:
        """Tell the board where this replica answers."""
        self._address = address
        await self._report()

    async def run(self) -> None:
        """Follow and report until `stop` is called, then leave the board."""
        work: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._keep_reporting()),
            asyncio.create_task(self._watch()),
            asyncio.create_task(self._ended.wait()),
        ]
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            for task in (*done, *self._broken):
                task.result()  # raises what a bug raised
        finally:
            await ended(*work, *self._pursuits.values())
        try:
            await self._board.remove(self._replica_id)
        except (RedisError, OSError) as error:  # the entry ends by itself
            log.info("could not leave the board of replicas", error=str(error))

    def stop(self) -> None:
        """Make `run` return."""
        self._ended.set()

    def unserved(self) -> Mapping[str, int]:
        """Generations of the deployments that this replica should serve, and serves no model of: none ever loaded."""
        servings = self._registry.current.servings
        return {name: wanted.generation for name, wanted in self._wanted.items() if name not in servings}

    def behind(self) -> Mapping[str, int]:
        """Generations of the deployments that this replica should serve, and does not serve yet."""
        servings = self._registry.current.servings
        return {
            name: wanted.generation
            for name, wanted in self._wanted.items()
            if name not in servings or _served(servings[name]) != Served.of(wanted)
        }

    async def wait_for_generation(self, strategy: str, generation: int, timeout_s: float) -> None:
        """Return once this replica serves that generation of a strategy, or a later one.

        Raises UnavailableError (GENERATION_NOT_SERVED) at the timeout.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while self._generation(strategy) < generation:
                    await self._next_swap.wait()
        except TimeoutError:
            why = self._errors.get(strategy, "still loading")
            raise UnavailableError(
                f"strategy {strategy}: generation {generation} is not served here: {why}",
                reason="GENERATION_NOT_SERVED",
            ) from None

    def _generation(self, strategy: str) -> int:
        serving = self._registry.current.servings.get(strategy)
        return serving.generation if serving else 0

    async def _watch(self) -> None:
        while True:
            try:
                async with aclosing(self._deployments.watch()) as deployments:
                    async for deployment in deployments:
                        self._want(deployment)
            except (RedisError, OSError) as error:
                log.warning("lost sight of the deployments: trying again", error=str(error))
            await asyncio.sleep(HEARTBEAT_S)

    def _want(self, deployment: Deployment) -> None:
        """Go for a deployment, unless it is served or pursued already. Another pursuit of the strategy ends.

        What is stored counts, also when its generation is lower than the one that is served: Redis lost the later one.
        """
        strategy = deployment.strategy
        pursuit = self._pursuits.get(strategy)
        if deployment == self._wanted.get(strategy):
            serving = self._registry.current.servings.get(strategy)
            pursued = pursuit is not None and not pursuit.done()
            if pursued or (serving is not None and _served(serving) == Served.of(deployment)):
                return
        self._wanted[strategy] = deployment
        if pursuit is not None:
            pursuit.cancel()
        pursuit = self._pursuits[strategy] = asyncio.create_task(self._pursue(deployment))
        pursuit.add_done_callback(self._pursued)

    def _pursued(self, pursuit: asyncio.Task[None]) -> None:
        if not pursuit.cancelled() and pursuit.exception() is not None:
            self._broken.append(pursuit)
            self._ended.set()

    async def _pursue(self, deployment: Deployment) -> None:
        """Try until the deployment is served."""
        retry_s = _FIRST_RETRY_S
        while not await self._attempt(deployment):
            await asyncio.sleep(retry_s)
            retry_s = min(retry_s * 2, _LAST_RETRY_S)

    async def _attempt(self, deployment: Deployment) -> bool:
        """Load a deployment and swap to it; False, told to log and board, when the champion cannot be loaded."""
        strategy = deployment.strategy
        champion_load = self._load(deployment.champion_version)
        previous_load = self._load(deployment.previous_version) if deployment.previous_version else None
        # Shielded: a newer deployment may end this pursuit, and most often needs the same versions.
        try:
            champion = await asyncio.shield(champion_load)
        except Exception as error:  # whatever is wrong with a new model, the old one serves
            self._errors[strategy] = self._told(strategy, deployment.champion_version, error)
            self._news.set()
            return False
        previous = None
        if previous_load is not None:
            try:
                previous = await asyncio.shield(previous_load)
            except Exception as error:  # the champion serves without it
                self._told(strategy, deployment.previous_version, error)
        challenger = deployment.challenger_version
        self._swap(Serving(strategy, deployment.generation, champion, previous, challenger))
        return True

    def _load(self, version: str) -> asyncio.Task[LoadedModel]:
        """The load of a version: the one that is done or under way, unless it failed."""
        load = self._versions.get(version)
        if load is None or (load.done() and (load.cancelled() or load.exception() is not None)):
            load = self._versions[version] = asyncio.create_task(self._loader.load(version))
            load.add_done_callback(lambda done: done.cancelled() or done.exception())  # its pursuit may be gone
        return load

    def _told(self, strategy: str, version: str, error: Exception) -> str:
        """Log and count why a version cannot be loaded; returns it in words."""
        metrics.LOAD_ERRORS.labels(strategy).inc()
        known = isinstance(error, QuantmeshError)
        text = f"{error.reason}: {error.message}" if isinstance(error, QuantmeshError) else repr(error)
        if self._errors.get(strategy) != text:
            log.error("cannot load", strategy=strategy, version=version, error=text, exc_info=None if known else error)
        return text

    def _swap(self, serving: Serving) -> None:
        self._registry.swap(serving)
        if self._challengers is not None:
            self._challengers.deployed(serving)
        self._errors.pop(serving.strategy, None)
        metrics.SWAPS.labels(serving.strategy).inc()
        self._unload()
        swapped, self._next_swap = self._next_swap, asyncio.Event()
        swapped.set()
        self._news.set()
        log.info(
            "swapped", strategy=serving.strategy, generation=serving.generation, version=serving.champion.version[:12]
        )

    def _unload(self) -> None:
        """Forget versions that no deployment refers to; calls that still use one keep it until they are done."""
        needed = {target.loaded.version for target in self._registry.current.targets()}
        for wanted in self._wanted.values():
            needed |= {wanted.champion_version, wanted.previous_version}
        for version in self._versions.keys() - needed:
            del self._versions[version]
        served = {target.loaded.version for target in self._registry.current.targets() if target.role != "challenger"}
        metrics.LOADED_MODELS.set(len(served))

    async def _keep_reporting(self) -> None:
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._news.wait()
            except TimeoutError:
                pass
            await self._report()

    async def _report(self) -> None:
        self._news.clear()
        serving = {name: _served(serving) for name, serving in self._registry.current.servings.items()}
        shadows = self._challengers.standing() if self._challengers is not None else {}
        try:
            await self._board.report(self._replica_id, self._address, serving, dict(self._errors), TTL_MS, shadows)
            self._reported = True
        except (RedisError, OSError) as error:
            if self._reported:
                log.warning("cannot report to the board of replicas", error=str(error))
            self._reported = False


def _served(serving: Serving) -> Served:
    return Served(serving.generation, serving.champion.version)
