"""Settings of feature_svc: those of the mesh."""

from __future__ import annotations

from runtime.settings import MeshSettings


class FeatureSettings(MeshSettings):
    """What feature_svc can be told: QUANTMESH_FEATURE_PORT, QUANTMESH_ALLOWED_CLOCK_SKEW_S and the others."""

    @property
    def skew_us(self) -> int:
        """How far ahead of the clock a timestamp may be, microseconds."""
        return round(self.allowed_clock_skew_s * 1_000_000)
