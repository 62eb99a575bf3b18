from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from device_agent import daemon
from device_agent.config import AgentConfig, load
from device_agent.errors import EnrolmentFailed, NotEnrolled, ReleaseRefused, StateDirectoryUnusable
from device_agent.journal import Entry, Journal
from device_agent.model_state import ModelState
from device_agent.status import summary
from device_agent.variants import choose, usable
from edgeward.commands.agent import command
from fleet_io.errors import ConfigurationError
from fleet_protocol.states import Assignment, Running
from runtime.tuning.readiness import Effort
from tests.support.releases import make_release

BASE = {"device": "kitchen", "state_dir": "/tmp/kitchen"}


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('device = "from-file"\nport = 1\nprobation_s = 7.5\n')
    environ = {"EDGEWARD_AGENT_PORT": "2", "EDGEWARD_AGENT_DEVICE": "from-environment", "OTHER": "x"}
    config = load(file=file, environ=environ, flags={"device": "from-flag", "state_dir": "/tmp/x", "port": None})
    assert (config.device, config.port, config.probation_s) == ("from-flag", 2, 7.5)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"device": "Not A Name"}, "device = 'Not A Name'"),
        ({"port": "70000"}, "port = '70000'"),
        ({"probation_s": "0"}, "probation_s"),
        ({"probation_inferences": "none"}, "probation_inferences"),
        ({"gate_memory_bytes": "1"}, "gate_memory_bytes"),
    ],
)
def test_a_value_that_does_not_fit_is_named(values: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        load(file=None, environ={}, flags=BASE | values)


def test_a_key_that_is_unknown_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text("probation_sec = 3\n")
    with pytest.raises(ConfigurationError, match="Did you mean 'probation_s'"):
        load(file=file, environ={}, flags=BASE)


def test_every_rule_of_the_machine_comes_from_the_configuration() -> None:
    config = AgentConfig(
        device="kitchen",
        state_dir="/tmp/x",
        probation_s=1,
        probation_inferences=2,
        errors_allowed=3,
        restarts_allowed=4,
        first_retry_s=5,
        longest_retry_s=6,
    )
    rules = config.rules()
    assert [getattr(rules, name) for name in rules.__slots__] == [1, 2, 3, 4, 5, 6, True]


def test_what_preparing_may_take_comes_from_the_configuration() -> None:
    config = AgentConfig(device="kitchen", state_dir="/tmp/x", prepare=False, tune_s=0)
    assert not config.rules().prepares
    assert config.effort() == Effort(tune_s=0, prepare=False)
    assert AgentConfig(device="kitchen", state_dir="/tmp/x", prepare=False).rules().prepares


class TestToken:
    def test_the_token_is_the_file_without_its_end_of_line(self, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("a secret\n")
        config = AgentConfig(device="kitchen", state_dir="/tmp/x", token_file=str(tmp_path / "token"))
        assert config.token() == "a secret"

    def test_without_a_file_there_is_none(self) -> None:
        assert AgentConfig(device="kitchen", state_dir="/tmp/x").token() is None

    @pytest.mark.parametrize("content", [b"", b"\n", b"\xff", b"a\nb"])
    def test_a_file_without_a_token_stops_the_agent(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "token").write_bytes(content)
        config = AgentConfig(device="kitchen", state_dir=str(tmp_path / "state"), token_file=str(tmp_path / "token"))
        with pytest.raises(ConfigurationError, match="token_file"):
            daemon.run(config, announce=print)
        assert not (tmp_path / "state").exists()

    def test_a_file_that_is_not_there_stops_it_too(self) -> None:
        with pytest.raises(ConfigurationError, match="token_file /nowhere cannot be read"):
            AgentConfig(device="kitchen", state_dir="/tmp/x", token_file="/nowhere").token()


class TestVariants:
    def test_the_first_that_an_engine_here_can_open_is_chosen(self, tmp_path: Path) -> None:
        manifest = make_release(tmp_path, "1.0.0", damages=(0.0, 0.0, 0.0)).manifest
        assert choose(manifest, {"onnx"}).name == "float-0"
        assert choose(manifest, {"onnx"}, {"float-0"}).name == "float-1"
        assert [each.name for each in usable(manifest, {"onnx"}, {"float-1"})] == ["float-0", "float-2"]

    def test_without_one_the_release_is_refused_with_what_it_offers(self, tmp_path: Path) -> None:
        manifest = make_release(tmp_path, "1.0.0").manifest
        with pytest.raises(ReleaseRefused, match=r"float-0 \(onnx\); the engines here open tflite"):
            choose(manifest, {"tflite"})


class TestJournal:
    ENTRY = Entry(desired=7, models=(ModelState(model="digits", phase="gating", work=3),))

    def test_the_last_entry_is_read_back(self, tmp_path: Path) -> None:
        Journal(tmp_path).save(Entry())
        Journal(tmp_path).save(self.ENTRY)
        assert Journal(tmp_path).load() == Journal(tmp_path).peek() == self.ENTRY

    def test_there_may_be_none(self, tmp_path: Path) -> None:
        assert Journal(tmp_path).load() is None

    @pytest.mark.parametrize("damage", [b"", b"x", b"\n{}", b"0" * 64 + b"\n{}"])
    def test_a_damaged_one_is_set_aside_once(self, tmp_path: Path, damage: bytes) -> None:
        Journal(tmp_path).save(self.ENTRY)
        (tmp_path / "journal.json").write_bytes(damage)
        assert Journal(tmp_path).peek() is None
        assert Journal(tmp_path).load() is None
        assert (tmp_path / "journal.damaged.json").read_bytes() == damage
        assert Journal(tmp_path).load() is None


class TestStatus:
    def config(self, directory: Path) -> AgentConfig:
        return AgentConfig(device="kitchen", state_dir=str(directory))

    def test_a_directory_that_is_not_there_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(NotEnrolled, match="does not exist"):
            summary(self.config(tmp_path / "nothing"))

    def test_it_shows_what_the_journal_says(self, tmp_path: Path) -> None:
        running = Running(version="1.0.0", manifest="sha256:" + "a" * 64, variant="int8", file="sha256:" + "b" * 64)
        wanted = Assignment(model="digits", version="1.1.0", manifest="sha256:" + "c" * 64)
        state = ModelState(model="digits", phase="fetching", running=running, wanted=wanted, target=wanted)
        Journal(tmp_path).save(Entry(desired=3, models=(state,)))
        arguments = ["status", "--device", "kitchen", "--state-dir", str(tmp_path)]
        shown = CliRunner().invoke(command, arguments)
        assert shown.exit_code == 0, shown.output
        assert all(word in shown.output for word in ("digits", "1.0.0", "int8", "fetching", "1.1.0", "not enrolled"))
        as_json = CliRunner().invoke(command, [*arguments, "--json"])
        assert '"phase": "fetching"' in as_json.output

    def test_it_never_shows_another_devices_directory(self, tmp_path: Path) -> None:
        identity = tmp_path / "identity"
        identity.mkdir()
        (identity / "enrolment.json").write_text("{}")
        with pytest.raises(EnrolmentFailed):
            summary(self.config(tmp_path))


def test_the_agents_command_needs_neither_converters_nor_registry_nor_telemetry() -> None:
    program = (
        "import sys; import edgeward.commands.agent; "
        "bad = {'converters', 'model_registry', 'fleet_telemetry', 'onnx', 'sqlalchemy', 'starlette'} & set(sys.modules); "
        "sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_state_directory_that_cannot_be_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    config = AgentConfig(device="kitchen", state_dir=str(tmp_path / "file" / "state"))
    with pytest.raises(StateDirectoryUnusable, match="cannot be used as state directory"):
        daemon.run(config, announce=print)


def test_the_page_about_the_agent_lists_every_setting() -> None:
    page = (Path(__file__).parents[3] / "docs" / "agent.md").read_text()
    missing = [field.name for field in dataclasses.fields(AgentConfig) if f"`{field.name}`" not in page]
    assert missing == []
