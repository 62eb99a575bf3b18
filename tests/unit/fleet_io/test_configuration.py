"""Configuration: which layer wins, and what a person reads when a value cannot be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from fleet_io import config
from fleet_io.errors import ConfigurationError

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


@dataclass(frozen=True)
class Settings:
    data: Path = Path("here")
    port: Port = 8443
    hosts: tuple[str, ...] = ()
    verbose: bool = False
    pause: float = 1.0


@dataclass(frozen=True)
class Demanding:
    device: str


def read(tmp_path: Path, toml: str | None = None, environ: dict[str, str] | None = None, **flags: object | None) -> Settings:
    file = None
    if toml is not None:
        file = tmp_path / "settings.toml"
        file.write_text(toml)
    return config.load(Settings, file=file, prefix="EDGEWARD_TEST", environ=environ or {}, flags=flags)


def test_without_anything_the_defaults_hold(tmp_path: Path) -> None:
    assert read(tmp_path, port=None) == Settings()


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    toml = 'port = 1\npause = 2\ndata = "file"'
    environ = {"EDGEWARD_TEST_PORT": "3", "EDGEWARD_TEST_PAUSE": "4.5"}
    assert read(tmp_path, toml, environ, port=5) == Settings(data=Path("file"), port=5, pause=4.5)


def test_values_from_the_environment_become_what_the_field_says(tmp_path: Path) -> None:
    environ = {
        "EDGEWARD_TEST_DATA": "/var/lib/x",
        "EDGEWARD_TEST_PORT": "80",
        "EDGEWARD_TEST_HOSTS": "a, b,,c",
        "EDGEWARD_TEST_VERBOSE": "true",
    }
    assert read(tmp_path, None, environ) == Settings(Path("/var/lib/x"), 80, ("a", "b", "c"), verbose=True)


@pytest.mark.parametrize("path", ["x", Path("x")])
def test_a_path_is_taken_as_text_or_as_a_path(tmp_path: Path, path: object) -> None:
    assert read(tmp_path, data=path).data == Path("x")


def test_variables_of_other_programs_are_passed_over(tmp_path: Path) -> None:
    environ = {"EDGEWARD_TEST_AGENT_THREADS": "1", "EDGEWARD_OTHER": "2", "EDGEWARD_TESTPORT": "3", "PATH": "/bin"}
    assert read(tmp_path, None, environ) == Settings()


@pytest.mark.parametrize(
    ("toml", "environ", "flags", "words"),
    [
        ("prot = 1", {}, {}, ["settings.toml", "'prot'", "Did you mean 'port'?"]),
        ("colour = 1", {}, {}, ["settings.toml", "'colour'", "Known keys: data, port"]),
        ("", {"EDGEWARD_TEST_PROT": "1"}, {}, ["EDGEWARD_TEST_PROT", "Did you mean EDGEWARD_TEST_PORT?"]),
        ("", {}, {"prot": 1}, ["the command line", "'prot'"]),
        ("port = 0", {}, {}, ["port = 0", "settings.toml", ">= 1"]),
        ("port = 1", {"EDGEWARD_TEST_PORT": "70000"}, {}, ["port = '70000'", "the environment", "<= 65535"]),
        ("port = 'many'", {}, {}, ["port = 'many'", "`int`"]),
        ("data = 3", {}, {}, ["data = 3", "settings.toml", "`Path`"]),
        ("hosts = [1, 2]", {}, {}, ["hosts = [1, 2]", "`str`"]),
        ("port = ", {}, {}, ["settings.toml", "not TOML"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_source_its_value_and_what_is_allowed(
    tmp_path: Path, toml: str, environ: dict[str, str], flags: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        read(tmp_path, toml, environ, **flags)
    for word in words:
        assert word in str(refusal.value)


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"not complete.*`device`"):
        config.load(Demanding, file=None, prefix="X", environ={}, flags={})


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.toml cannot be read: No such file"):
        config.load(Settings, file=tmp_path / "absent.toml", prefix="X", environ={}, flags={})


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match=r"binary\.toml is not TOML"):
        config.load(Settings, file=tmp_path / "binary.toml", prefix="X", environ={}, flags={})


def test_what_is_missing_is_named_with_every_way_to_give_it() -> None:
    with pytest.raises(ConfigurationError) as refused:
        config.load(Demanding, file=None, prefix="EDGEWARD_TEST", environ={}, flags={"device": None})
    for way in ("--device", "EDGEWARD_TEST_DEVICE", "configuration file"):
        assert way in str(refused.value)
