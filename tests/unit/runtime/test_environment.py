"""Settings from the environment: every fault is named by its variable, secrets are kept, misspelt ones are noticed."""

from __future__ import annotations

import pytest

from feature_svc.settings import FeatureSettings
from gateway.settings import GatewaySettings
from inference_svc.settings import InferenceSettings
from mlops_svc.settings import MlopsSettings
from runtime import environment
from runtime.errors import ConfigurationError
from runtime.settings import MeshSettings


def fault(kind: type[MeshSettings] = MeshSettings) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        environment.read(kind)
    assert caught.value.reason == "SETTINGS_INVALID"
    return caught.value


@pytest.mark.parametrize(
    "url", ["nonsense", "http://127.0.0.1", "redis://localhost:99999", "redis://:s3cret@/0", "redis://h:1/x"]
)
def test_a_redis_url_that_is_none_is_refused_without_its_password(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("QUANTMESH_REDIS_URL", url)
    error = fault()
    assert error.message.startswith("QUANTMESH_REDIS_URL is not a Redis URL: ")
    assert "s3cret" not in error.message
    assert "\n" not in error.message
    assert [violation.field for violation in error.violations] == ["QUANTMESH_REDIS_URL"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [("QUANTMESH_LOG_LEVEL", "loud"), ("QUANTMESH_LOG_FORMAT", "xml"), ("QUANTMESH_PARTITIONS", "0")],
)
def test_a_wrong_value_names_its_variable_and_itself(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    said = fault().message
    assert said.startswith(f"setting {variable}: ")
    assert value in said.lower()


def test_every_fault_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTMESH_PARTITIONS", "many")
    monkeypatch.setenv("INFER_BATCH_SIZE", "0")
    lines = fault(InferenceSettings).message.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["setting QUANTMESH_PARTITIONS", "setting INFER_BATCH_SIZE"]


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUANTMESH_HOME", raising=False)
    default = MeshSettings().home
    for name in ("QUANTMESH_REDIS_URL", "QUANTMESH_HOME", "QUANTMESH_PARTITIONS"):
        monkeypatch.setenv(name, "")
    settings = environment.read(MeshSettings)
    assert (settings.redis_url, settings.home, settings.partitions) == (None, default, 4)


def test_the_log_level_is_taken_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTMESH_LOG_LEVEL", "warning")
    assert environment.read(MeshSettings).log_level == "WARNING"


def test_a_variable_that_nobody_reads_is_told() -> None:
    names = ["PATH", "QUANTMESH_HOME", "QUANTMESH_GATWAY_PORT", "QUANTMESH_X", "INFER_BATCHSIZE", "INFER_SOMETHING"]
    assert environment.unread(names) == [
        "INFER_BATCHSIZE is not a setting: did you mean INFER_BATCH_SIZE?",
        "QUANTMESH_GATWAY_PORT is not a setting: did you mean QUANTMESH_GATEWAY_PORT?",
        "QUANTMESH_X is not a setting",
    ]


def test_every_service_s_variables_are_known() -> None:
    kinds: list[type[MeshSettings]] = [FeatureSettings, InferenceSettings, MlopsSettings, GatewaySettings]
    own = {
        environment.variable(kind, field)
        for kind in kinds
        for field in kind.model_fields
        if field not in MeshSettings.model_fields
    }
    assert own == environment.OF_SERVICES
