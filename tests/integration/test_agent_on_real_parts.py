"""The agent as a process of its own, against the registry and Mosquitto with TLS."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from edgeward.hanging import EXIT_HUNG
from tests.support.central_side import edgeward
from tests.support.real_fleet import AgentProcess, RealFleet, agent_process, real_fleet
from tests.support.releases import HANGING, make_release, question
from tests.support.waiting import until


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealFleet]:
    with real_fleet(tmp_path_factory.mktemp("fleet")) as made:
        for version, seed, damages in (("1.0.0", 0, (0.0,)), ("1.1.0", 1, (0.0,)), ("1.2.0", 2, (1.0,))):
            made.publish(make_release(made.directory / "bundles", version, seed=seed, damages=damages))
        made.publish(make_release(made.directory / "bundles", "1.3.0", seed=3, hangs=True))
        yield made


def committed(fleet: RealFleet, device: str, version: str) -> bool:
    model = fleet.model_of(device)
    return bool(model and model["phase"] == "idle" and model["running"] and model["running"]["version"] == version)


def is_on_trial(fleet: RealFleet, device: str, version: str) -> bool:
    model = fleet.model_of(device)
    return bool(model and model["phase"] == "probation" and model["running"]["version"] == version)


def test_a_release_reaches_a_device_and_answers_requests_until_ctrl_c_ends_it_cleanly(fleet: RealFleet) -> None:
    with agent_process(fleet, "kitchen") as agent:
        fleet.roll_out("1.0.0")
        until(lambda: committed(fleet, "kitchen", "1.0.0"), "kitchen runs 1.0.0")
        assert agent.infer(question())["model_version"] == "1.0.0"
        assert fleet.device("kitchen")["online"]
        assert agent.stop(signal.SIGINT) == 0
        until(lambda: not fleet.device("kitchen")["online"], "kitchen is offline")
        status = edgeward("agent", "status", "--device", "kitchen", "--state-dir", str(agent.state_dir), "--json")
        assert json.loads(status.stdout)["models"][0]["running"]["version"] == "1.0.0"


def test_requests_are_answered_without_a_failure_while_a_better_release_comes_and_a_broken_one_is_refused(
    fleet: RealFleet,
) -> None:
    with agent_process(fleet, "porch") as agent:
        fleet.roll_out("1.0.0")
        until(lambda: committed(fleet, "porch", "1.0.0"), "porch runs 1.0.0")
        traffic = Traffic(agent)
        traffic.start()
        fleet.roll_out("1.1.0")
        until(lambda: committed(fleet, "porch", "1.1.0"), "porch runs 1.1.0")
        broken = fleet.roll_out("1.2.0")
        until(lambda: fleet.rollout(broken)["state"] != "running", "the rollout of the broken release ends")
        until(lambda: committed(fleet, "porch", "1.1.0"), "porch is at rest")
        versions = traffic.stop()
        refused = fleet.model_of("porch")["refused"]
        assert traffic.failures == []
        assert versions == {"1.0.0", "1.1.0"}
        assert [(each["version"], each["phase"]) for each in refused] == [("1.2.0", "gating")]
        assert fleet.rollout(broken)["state"] == "failed"


def test_a_release_that_hangs_on_a_request_is_rolled_back_and_its_rollout_fails(fleet: RealFleet) -> None:
    settings = {"HANG_S": "2", "PROBATION_S": "600", "PROBATION_INFERENCES": "30"}

    def goes_on() -> bool:
        """The agent has ended, or answers as before: where the machine is slow, the model runs on a thread of its own."""
        with contextlib.suppress(httpx.HTTPError):
            return agent.ended() or agent.infer(question())["model_version"] == "1.0.0"
        return False

    with agent_process(fleet, "hall", **{f"EDGEWARD_AGENT_{name}": value for name, value in settings.items()}) as agent:
        fleet.roll_out("1.0.0")
        until(lambda: is_on_trial(fleet, "hall", "1.0.0"), "1.0.0 is on probation")
        for _ in range(30):
            agent.infer(question())
        until(lambda: committed(fleet, "hall", "1.0.0"), "hall runs 1.0.0")
        hanging = fleet.roll_out("1.3.0")
        until(lambda: is_on_trial(fleet, "hall", "1.3.0"), "1.3.0 is on probation")
        for _ in range(20):
            agent.infer(question())
        with contextlib.suppress(httpx.HTTPError):
            agent.infer(HANGING)
        until(goes_on, "the agent has given it up")
        if agent.ended():
            assert agent.process is not None
            assert agent.process.returncode == EXIT_HUNG
            agent.start()
        assert agent.infer(question())["model_version"] == "1.0.0"
        until(lambda: fleet.rollout(hanging)["state"] == "failed", "the rollout has failed")
        [refused] = fleet.model_of("hall")["refused"]
        assert (refused["version"], refused["phase"]) == ("1.3.0", "probation")


def test_a_release_is_tuned_and_prepared_where_it_runs_and_a_token_and_a_socket_keep_strangers_out(fleet: RealFleet) -> None:
    (fleet.directory / "token").write_text("a secret\n")
    settings = {
        "EDGEWARD_AGENT_TUNE_S": "0.5",
        "EDGEWARD_AGENT_PREPARE_FROM_BYTES": "0",
        "EDGEWARD_AGENT_ADDRESS": f"unix:{fleet.directory / 's'}",
        "EDGEWARD_AGENT_TOKEN_FILE": str(fleet.directory / "token"),
    }
    with agent_process(fleet, "attic", **settings) as agent:
        fleet.roll_out("1.0.0")
        until(lambda: committed(fleet, "attic", "1.0.0"), "attic runs 1.0.0")
        kept = agent.state_dir / "prepared"
        assert [len(list((kept / each).iterdir())) for each in ("tuned", "prepared")] == [1, 1]
        assert agent.stop() == 0
        agent.start()
        with httpx.Client(base_url="http://device", transport=httpx.HTTPTransport(uds=str(fleet.directory / "s"))) as client:
            assert client.get("/v2/models/digits").status_code == 401
            client.headers["Authorization"] = "Bearer a secret"
            assert client.get("/v2/models/digits").json()["versions"] == ["1.0.0"]


def test_a_killed_agent_answers_again_before_the_network_is_there(fleet: RealFleet) -> None:
    with agent_process(fleet, "cellar") as agent:
        fleet.roll_out("1.0.0")
        until(lambda: committed(fleet, "cellar", "1.0.0"), "cellar runs 1.0.0")
        agent.kill()
        fleet.broker.kill()
        try:
            agent.start()
            assert agent.infer(question())["model_version"] == "1.0.0"
        finally:
            fleet.broker.stop()
            fleet.broker.start()
        fleet.roll_out("1.1.0")
        until(lambda: committed(fleet, "cellar", "1.1.0"), "cellar follows again after the broker came back")


class Traffic:
    """One application that asks without a pause."""

    def __init__(self, agent: AgentProcess) -> None:
        self.failures: list[str] = []
        self._agent = agent
        self._versions: set[str] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> set[str]:
        self._stopping.set()
        self._thread.join(10)
        return self._versions

    def _ask(self) -> None:
        while not self._stopping.wait(0.005):
            try:
                self._versions.add(self._agent.infer(question())["model_version"])
            except (httpx.HTTPError, KeyError) as error:
                self.failures.append(repr(error))


def test_killed_with_9_at_many_moments_it_ends_where_it_should(fleet: RealFleet) -> None:
    with agent_process(fleet, "attic", EDGEWARD_AGENT_RESTARTS_ALLOWED="100") as agent:
        fleet.roll_out("1.0.0")
        until(lambda: committed(fleet, "attic", "1.0.0"), "attic runs 1.0.0")
        fleet.roll_out("1.1.0")
        pause = threading.Event()
        for tenths in (0, 3, 6):
            pause.wait(0.1 * tenths)
            agent.kill()
            agent.start()
            assert agent.infer(question())["model_version"] in ("1.0.0", "1.1.0")
        until(lambda: committed(fleet, "attic", "1.1.0"), "attic runs 1.1.0", timeout_s=40)
        assert agent.stop() == 0


def test_streams_follow_releases_outlive_kills_and_faults_and_show_in_the_status(fleet: RealFleet) -> None:
    inbox, out = fleet.directory / "inbox", fleet.directory / "results.jsonl"
    inbox.mkdir()
    settings = fleet.directory / "agent.toml"
    settings.write_text(f"""
grpc_address = "127.0.0.1:0"
[[stream]]
name = "inbox"
model = "digits"
from = "dir:{inbox}"
to = "file:{out}"
[[stream]]
name = "unplugged"
model = "digits"
from = "camera:{fleet.directory / "no.mp4"}"
to = "mqtt:nobody"
broker = "127.0.0.1:9"
""")

    def put(name: str) -> None:
        np.save(inbox / f".{name}.npy", question()["pixels"])
        (inbox / f".{name}.npy").rename(inbox / f"{name}.npy")

    def answered() -> list[tuple[str, str]]:
        lines = out.read_text().splitlines() if out.exists() else []
        return [(each["item"], each["version"]) for each in map(json.loads, lines)]

    with agent_process(fleet, "shed", settings) as agent:
        put("before")
        fleet.roll_out("1.0.0")
        until(lambda: ("before.npy", "1.0.0") in answered(), "what waited is answered by the first release")
        agent.kill()
        put("meanwhile")
        agent.start()
        until(lambda: ("meanwhile.npy", "1.0.0") in answered(), "the stream is back")
        fleet.roll_out("1.1.0")
        until(lambda: committed(fleet, "shed", "1.1.0"), "shed runs 1.1.0")
        put("after")
        until(lambda: ("after.npy", "1.1.0") in answered(), "the stream has followed")
        address = [line.split()[-1] for line in agent.lines if "answers gRPC at" in line][-1]
        with grpcclient.InferenceServerClient(address) as client:
            assert client.is_model_ready("digits", "1.1.0")
        assert agent.stop() == 0
    status = edgeward("agent", "status", "--device", "shed", "--state-dir", str(agent.state_dir), "--json")
    streams = json.loads(status.stdout)["streams"]
    assert [(each["name"], each["state"]) for each in streams] == [("inbox", "running"), ("unplugged", "broken")]


def test_a_second_agent_on_its_directory_or_its_port_is_refused_in_one_line(fleet: RealFleet) -> None:
    with agent_process(fleet, "hall") as agent:
        same = edgeward("agent", "run", "--device", "hall", "--state-dir", str(agent.state_dir))
        port = agent.url.rsplit(":", 1)[1]
        shed = ["--device", "shed", "--state-dir", str(fleet.directory / "shed"), "--server", fleet.url]
        taken = edgeward("agent", "run", *shed, "--claim", fleet.claim("shed"), "--port", port)
    assert (same.returncode, taken.returncode) == (1, 1)
    assert "is in use by another agent." in same.stderr
    assert f"127.0.0.1:{port}: Address already in use" in taken.stderr
    assert "Traceback" not in same.stderr + taken.stderr
