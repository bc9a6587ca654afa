"""What a Redis URL says, and what is said about one that says nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import ConfigurationError
from runtime.redis_topology import Kind, parse, without_password


def test_one_server() -> None:
    assert parse("redis://example").nodes == (("example", 6379),)
    found = parse("redis://desk:p%40ss%2Fw%23@[::1]:7000/3")
    assert (found.kind, found.nodes, found.database) == (Kind.SERVER, (("::1", 7000),), 3)
    assert found.credentials == {"username": "desk", "password": "p@ss/w#"}
    assert found.tls is None
    assert parse("redis://:secret@h").credentials == {"password": "secret"}
    assert parse("redis://h?db=2").database == 2


def test_tls_takes_its_files_from_the_url(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.touch()
    assert parse(f"rediss://h:1/0?ssl_ca_certs={ca}&ssl_check_hostname=no").tls == {
        "ssl_ca_certs": str(ca),
        "ssl_check_hostname": False,
    }
    assert parse("rediss+cluster://h").tls == {}
    assert parse("rediss://h?ssl_cert_reqs=none").tls == {"ssl_cert_reqs": "none", "ssl_check_hostname": False}


def test_sentinels_and_their_own_user() -> None:
    found = parse("redis+sentinel://u:p@a:1,b/mymaster?db=4&sentinel_username=s&sentinel_password=t")
    assert (found.kind, found.nodes) == (Kind.SENTINEL, (("a", 1), ("b", 26379)))
    assert (found.service, found.database) == ("mymaster", 4)
    assert found.credentials == {"username": "u", "password": "p"}
    assert found.sentinel_credentials == {"username": "s", "password": "t"}


def test_a_cluster() -> None:
    found = parse("redis+cluster://a:1,b:2,c")
    assert (found.kind, found.nodes) == (Kind.CLUSTER, (("a", 1), ("b", 2), ("c", 6379)))
    assert parse("redis+cluster://a/0").database == 0


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "schemes"),
        ("localhost:6379", "schemes"),
        ("http://h", "schemes"),
        ("redis://", "host is missing"),
        ("redis://:1", "host:port"),
        ("redis://h:0", "no port 0"),
        ("redis://h:70000", "no port 70000"),
        ("redis://h:port", "host:port"),
        ("redis://a,b", "several hosts"),
        ("redis://h/x", "must be a number"),
        ("redis://h/1?db=2", "leave one out"),
        ("redis://user@h", "needs a password"),
        ("redis://h?nonsense=1", "no parameter 'nonsense'"),
        ("redis://h?db", "bad query field"),
        ("redis://h?db=", "db is empty"),
        ("redis://h?db=1&db=2", "twice"),
        ("redis://h?ssl_ca_certs=/x", "needs TLS"),
        ("rediss://h?ssl_ca_certs=/no/such/file", "no file /no/such/file"),
        ("rediss://h?ssl_cert_reqs=perhaps", "required, optional or none"),
        ("rediss://h?ssl_check_hostname=perhaps", "true or false"),
        (f"rediss://h?ssl_certfile={__file__}", "go together"),
        ("redis+sentinel://h", "name of the service"),
        ("redis+sentinel://h/a/b", "name of the service"),
        ("redis+sentinel://a,,b/s", "host is missing"),
        ("redis+cluster://h/1", "database 0 only"),
        ("redis+cluster://h?db=1", "no parameter 'db'"),
    ],
)
def test_a_malformed_one_is_told_by_the_name_of_its_setting(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as error:
        parse(url)
    assert error.value.message.startswith("QUANTMESH_REDIS_URL")
    assert error.value.reason == "REDIS_URL_INVALID"


@pytest.mark.parametrize("password", ["qq/zz", "qq#zz", "qq?zz", "qq?zz=1", "qq@zz", "qq zz", "[qqzz", "qq:zz"])
def test_a_password_that_was_not_quoted_is_never_repeated(password: str) -> None:
    url = f"redis://user:{password}@host:6379/0"
    try:
        found = parse(url)
    except ConfigurationError as error:
        told = f"{error.message} {error.metadata} {error.__cause__}"
        assert "qq" not in told
        assert "zz" not in told
    else:
        assert found.credentials["password"] == password
        assert password not in repr(found)
    assert without_password(url) == "redis://host:6379/0"


def test_a_url_is_logged_without_its_secrets() -> None:
    url = "rediss+sentinel://u:p@a:1,b:2/s?sentinel_username=x&sentinel_password=y&ssl_ca_certs=/ca.pem"
    assert without_password(url) == "rediss+sentinel://a:1,b:2/s?sentinel_username=x&ssl_ca_certs=/ca.pem"
    assert without_password("redis://h:1/0") == "redis://h:1/0"
