"""The models that a replay runs: by digest, from the artifact store, a few at a time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from inference_svc.loader import Loader
from inference_svc.registry import LoadedModel
from inference_svc.settings import InferenceSettings
from modelstore.artifacts import ArtifactStore
from runtime.errors import QuantmeshError, UnavailableError

_IN_MEMORY = 8
"""Signals come in the order in which they were made, so the same few models are asked for again and again."""


class Models:
    """Loads models with the session that serves them, and remembers which could not be."""

    def __init__(self, artifacts: ArtifactStore) -> None:
        self._artifacts = artifacts
        self._loader = Loader(artifacts, InferenceSettings(model_warmup=False))
        self._loaded: OrderedDict[str, LoadedModel] = OrderedDict()
        self._failed: dict[str, QuantmeshError] = {}

    async def get(self, digest: str) -> LoadedModel:
        """A model. Raises what `Loader.load` raises, and the same the next time, unless the store was away."""
        if digest in self._failed:
            raise self._failed[digest]
        loaded = self._loaded.get(digest)
        if loaded is None:
            try:
                loaded = await self._loader.load(digest)
            except UnavailableError:
                raise
            except QuantmeshError as error:
                self._failed[digest] = error
                raise
            self._loaded[digest] = loaded
            if len(self._loaded) > _IN_MEMORY:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(digest)
        return loaded

    async def feature_set(self, digest: str) -> str | None:
        """The set that a model was trained on; None when its artifact is not there, or damaged. Raises as `find`."""
        try:
            return (await asyncio.to_thread(self._artifacts.get, digest)).manifest.feature_set
        except UnavailableError:
            raise
        except QuantmeshError:
            return None

    async def find(self, digest: str) -> LoadedModel | None:
        """A model, or None when it cannot be loaded. Raises UnavailableError when the store is away."""
        try:
            return await self.get(digest)
        except UnavailableError:
            raise
        except QuantmeshError:
            return None
