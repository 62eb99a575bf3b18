"""The digits example, converted for real: figures, bytes, the device's gate, the command, and every bad input at its front."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import converters
from converters.conversion import check_room
from converters.errors import AccuracyRefused, ConversionError, DataRejected, SettingsRejected, SourceRejected
from edgeward.cli import main
from fleet_io.bundle_directory import Bundle, open_bundle
from fleet_io.errors import BundleDamaged, BundleExists, BundleUnwritable
from fleet_protocol.profile import decode_profile
from runtime import golden, load
from runtime.gate import GateRequest, GateVerdict, ModelFile, examine
from tests.support import models

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "examples" / "digits"
DATA = DIGITS / "digits.npz"
VARIANTS = {"float32", "int8-static", "int8-weights", "tflite-int8", "tflite-int8-weights"}

Convert = Callable[..., Bundle]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """v1, v2, and v3 with ruined weights."""
    folder = tmp_path_factory.mktemp("digits")
    subprocess.run(
        [sys.executable, DIGITS / "damage.py", DIGITS / "digits-v2.onnx", folder / "v3.onnx"], check=True, capture_output=True
    )
    sources = {"1.0.0": DIGITS / "digits-v1.onnx", "1.1.0": DIGITS / "digits-v2.onnx", "1.2.0": folder / "v3.onnx"}
    return {
        version: converters.convert(source, DATA, model="digits", version=version, out=folder / version)
        for version, source in sources.items()
    }


def test_the_examples_page_says_how_accurate_its_models_are() -> None:
    with np.load(DATA) as arrays:
        pixels, label = arrays["pixels"], arrays["label"]
        assert len(arrays["train_pixels"]) == 897
    said = re.search(r"v1 (0\.\d+), v2 (0\.\d+)", (DIGITS / "README.md").read_text(encoding="utf-8"))
    assert said is not None
    for version, figure in zip(("v1", "v2"), said.groups(), strict=True):
        answers = load(DIGITS / f"digits-{version}.onnx")({"pixels": pixels})["probabilities"]
        assert f"{np.mean(answers.argmax(axis=1) == label):.4f}" == figure


def test_no_sample_to_convert_with_was_trained_with() -> None:
    with np.load(DATA) as arrays:
        trained = {sample.tobytes() for sample in arrays["train_pixels"]}
        assert not trained & {sample.tobytes() for sample in arrays["pixels"]}


def test_every_variant_of_a_good_model_ships_within_half_a_point_of_float(digits: dict[str, Bundle]) -> None:
    for version, least in (("1.0.0", 0.94), ("1.1.0", 0.97)):
        report = converters.read_report(digits[version])
        accuracies = {each.name: each.accuracy.value for each in report.variants if each.accuracy is not None}
        assert set(accuracies) == VARIANTS
        assert all(each.shipped for each in report.variants)
        assert accuracies["float32"] > least
        assert min(accuracies.values()) >= accuracies["float32"] - 0.005
        assert report.warnings == ()


def test_int8_is_at_most_a_third_of_float(digits: dict[str, Bundle]) -> None:
    report = converters.read_report(digits["1.0.0"])
    for each in report.variants:
        assert each.size_ratio is not None
        assert each.name == "float32" or each.size_ratio < 0.34


def test_parts_share_no_sample(digits: dict[str, Bundle]) -> None:
    bundle = digits["1.0.0"]
    samples = converters.read_report(bundle).samples
    assert samples.calibration + samples.golden + samples.held_out == 900
    assert bundle.manifest.golden.samples == samples.golden == 64


def test_the_float_variant_answers_as_the_given_file_does_and_is_smaller(digits: dict[str, Bundle]) -> None:
    bundle = digits["1.0.0"]
    variant = bundle.manifest.variant("float32")
    assert variant is not None
    shipped, given = bundle.path(variant.file), DIGITS / "digits-v1.onnx"
    assert shipped.stat().st_size < given.stat().st_size
    with np.load(DATA) as arrays:
        inputs = {"pixels": arrays["pixels"][:50]}
    before, after = load(given)(inputs), load(shipped)(inputs)
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values)


def test_golden_outputs_are_the_float_models(digits: dict[str, Bundle]) -> None:
    kept = golden.read(digits["1.1.0"].path(digits["1.1.0"].manifest.golden.file))
    answers = load(DIGITS / "digits-v2.onnx")(kept.inputs)
    np.testing.assert_allclose(kept.outputs["probabilities"], answers["probabilities"], atol=1e-5)
    assert kept.labels is not None
    assert len(kept.labels) == 64


def test_the_profile_is_of_the_preferred_variant_on_the_held_out_samples(digits: dict[str, Bundle]) -> None:
    bundle = digits["1.0.0"]
    profile = decode_profile(bundle.path(bundle.manifest.profile).read_bytes())
    assert profile.variant == bundle.manifest.variants[0].name
    assert profile.samples == sum(profile.classes.values()) == sum(profile.confidence_counts) == 536
    assert len(profile.features) == 1 + 64


def test_the_same_inputs_give_the_same_bytes_in_another_process(digits: dict[str, Bundle], tmp_path: Path) -> None:
    preferred = digits["1.0.0"].manifest.variants[0].name
    digests = set()
    slower = set()
    for at in range(2):
        done = edgeward(
            "convert", DIGITS / "digits-v1.onnx", "--data", DATA, "--name", "digits", "--version", "1.0.0", "--json",
            "--prefer", preferred, "--out", tmp_path / str(at), hash_seed=str(at),
        )  # fmt: skip
        said = json.loads(done.stdout)
        digests.add(said["digest"])
        slower |= {variant["slower_than_float"] for variant in said["report"]["variants"]}
    assert len(digests) == 1
    assert slower == {None}  # what was measured has no part in it


def test_converting_again_into_the_same_place_is_taken_as_done(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "model": "digits", "version": "1.0.0", "out": tmp_path / "b", "prefer": "int8-static", "tflite": False
    }  # fmt: skip
    first = converters.convert(DIGITS / "digits-v1.onnx", DATA, **given)
    assert converters.convert(DIGITS / "digits-v1.onnx", DATA, **given) == first
    with pytest.raises(BundleExists):
        converters.convert(DIGITS / "digits-v2.onnx", DATA, **given)
    assert open_bundle(tmp_path / "b").digest == first.digest


def judged(bundle: Bundle, variant: str, *, running: Bundle | None = None) -> GateVerdict:
    """What a device's gate says to one variant."""

    def file(of: Bundle, name: str) -> ModelFile:
        found = of.manifest.variant(name)
        assert found is not None
        return ModelFile(of.path(found.file), found.session_options)

    wanted, chosen = bundle.manifest.golden, bundle.manifest.variant(variant)
    assert chosen is not None
    request = GateRequest(
        candidate=file(bundle, variant),
        golden=bundle.path(wanted.file),
        tolerance=chosen.tolerance,
        min_accuracy=wanted.min_accuracy,
        max_regression=wanted.max_regression,
        baseline=None if running is None else file(running, running.manifest.variants[0].name),
    )
    return examine(request, timeout_s=30, memory_bytes=1 << 30)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_a_devices_gate_lets_every_good_variant_pass(digits: dict[str, Bundle], variant: str) -> None:
    verdict = judged(digits["1.1.0"], variant, running=digits["1.0.0"])
    assert verdict.passed, verdict.reason


def test_the_ruined_model_is_converted_with_a_loud_warning_and_refused_by_the_gate(digits: dict[str, Bundle]) -> None:
    assert "float model itself is right on only" in converters.read_report(digits["1.2.0"]).warnings[0]
    verdict = judged(digits["1.2.0"], digits["1.2.0"].manifest.variants[0].name, running=digits["1.1.0"])
    assert not verdict.passed
    assert "where the running version has" in verdict.reason


def test_weights_swapped_for_another_models_do_not_pass_the_gate(digits: dict[str, Bundle]) -> None:
    other, own = digits["1.2.0"].manifest.variant("int8-static"), digits["1.1.0"].manifest.variant("int8-static")
    assert other is not None
    assert own is not None
    request = GateRequest(
        candidate=ModelFile(digits["1.2.0"].path(other.file)),
        golden=digits["1.1.0"].path(digits["1.1.0"].manifest.golden.file),
        tolerance=own.tolerance,
    )
    assert not examine(request, timeout_s=30, memory_bytes=1 << 30).passed


def test_a_changed_bundle_names_the_changed_file(tmp_path: Path) -> None:
    bundle = converters.convert(DIGITS / "digits-v1.onnx", DATA, model="digits", version="1.0.0", out=tmp_path / "b")
    path = bundle.path(bundle.manifest.variants[0].file)
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleDamaged, match=re.escape(path.name) + " was changed"):
        converters.open_bundle(tmp_path / "b")


def test_a_least_accuracy_refuses_a_worse_model_and_is_handed_on_for_a_better_one(tmp_path: Path) -> None:
    given: dict[str, Any] = {"model": "digits", "version": "1.0.0", "out": tmp_path / "b"}
    with pytest.raises(AccuracyRefused, match=r"at least 99\.00% was asked for"):
        converters.convert(DIGITS / "digits-v1.onnx", DATA, min_accuracy=0.99, **given)
    assert not (tmp_path / "b").exists()
    bundle = converters.convert(DIGITS / "digits-v1.onnx", DATA, min_accuracy=0.9, **given)
    promised = bundle.manifest.golden.min_accuracy
    assert promised is not None
    assert 0.8 < promised <= 0.9


def test_a_least_accuracy_needs_labels(tmp_path: Path) -> None:
    with np.load(DATA) as arrays:
        pixels = arrays["pixels"]
    with pytest.raises(DataRejected, match="no labels"):
        converters.convert(
            DIGITS / "digits-v1.onnx", {"pixels": pixels}, model="digits", version="1.0.0", out=tmp_path / "b", min_accuracy=0.9
        )


def test_a_separate_evaluation_set_measures_the_accuracy(tmp_path: Path) -> None:
    with np.load(DATA) as arrays:
        first = {"pixels": arrays["pixels"][:200], "label": arrays["label"][:200]}
        second = {"pixels": arrays["pixels"][200:], "label": arrays["label"][200:]}
    bundle = converters.convert(
        DIGITS / "digits-v1.onnx", first, evaluate=second, model="digits", version="1.0.0", out=tmp_path / "b"
    )
    samples = converters.read_report(bundle).samples
    assert (samples.calibration, samples.golden, samples.held_out) == (150, 50, 700)


def test_unlabelled_data_is_judged_by_agreement_and_says_so(tmp_path: Path) -> None:
    path = models.mlp_classifier(tmp_path / "m.onnx")
    bundle = converters.convert(
        path, {"pixels": models.samples(600)[0]}, model="m", version="1.0.0", out=tmp_path / "b", budget=0.05
    )
    report = converters.read_report(bundle)
    assert report.task == "classes"
    assert any("no labels" in warning for warning in report.warnings)
    assert bundle.manifest.variants[0].accuracy is not None
    assert bundle.manifest.variants[0].accuracy.metric == "agreement with float"
    assert not bundle.manifest.golden.has_labels


def test_static_int8_that_outliers_ruin_is_left_out_with_its_reason_and_the_others_ship(tmp_path: Path) -> None:
    pixels, label = models.samples(600)
    pixels[::20] *= 3000  # a few samples stretch every range, so that all others fall into a few of the 256 steps
    path = models.mlp_classifier(tmp_path / "m.onnx")
    data: dict[str, Any] = {"pixels": pixels, "label": label}
    bundle = converters.convert(path, data, model="m", version="1.0.0", out=tmp_path / "b")
    assert {variant.name for variant in bundle.manifest.variants} == {"int8-weights", "float32", "tflite-int8-weights"}
    assert not (bundle.directory / "variants" / "int8-static.onnx").exists()
    report = converters.read_report(bundle)
    static = report.variant("int8-static")
    assert static is not None
    assert not static.shipped
    assert "points of accuracy" in static.reason
    assert any("int8-static was left out: it loses" in warning for warning in report.warnings)


def test_a_model_of_values_with_several_inputs_and_outputs_is_carried_as_float(tmp_path: Path) -> None:
    path = models.two_inputs(tmp_path / "m.onnx")
    chance = np.random.default_rng(0)
    data = {name: chance.normal(size=(64, 2)).astype(np.float32) for name in ("left", "right")}
    bundle = converters.convert(path, data, model="sum", version="1.0.0", out=tmp_path / "b")
    report = converters.read_report(bundle)
    assert report.task == "values"
    assert "float32" in {variant.name for variant in bundle.manifest.variants}
    assert all(variant.tolerance.min_agreement is None for variant in bundle.manifest.variants)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (models.not_a_number, SourceRejected, "NaN"),
        (models.custom_operator, SourceRejected, "cannot be run|not a valid"),
        (lambda path: models.constant(path, 1.0, features=65), DataRejected, "each sample must have the shape"),
        (lambda path: models.linear_classifier(path, input_name="image"), DataRejected, "has no array 'image'"),
        (lambda path: models.linear_classifier(path, classes=5), DataRejected, "has the label 9, but"),
    ],
)
def test_a_model_that_does_not_fit_leaves_nothing_behind(
    tmp_path: Path, make: Callable[[Path], Path], error: type[ConversionError], match: str
) -> None:
    pixels, label = models.samples(100)
    path = make(tmp_path / "m.onnx")
    with pytest.raises(error, match=match):
        converters.convert(path, {"pixels": pixels, "label": label}, model="m", version="1.0.0", out=tmp_path / "b")
    assert [each.name for each in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("count", [9, 11])
def test_class_names_must_be_as_many_as_the_classes(tmp_path: Path, count: int) -> None:
    with pytest.raises(SettingsRejected, match=f"{count} class names were given, but the model tells 10 classes"):
        converters.convert(
            DIGITS / "digits-v1.onnx", DATA, model="digits", version="1.0.0", out=tmp_path / "b",
            classes=[f"digit {at}" for at in range(count)],
        )  # fmt: skip


def test_class_names_reach_the_manifest_and_the_profile(tmp_path: Path) -> None:
    names = tuple(f"digit {at}" for at in range(10))
    bundle = converters.convert(
        DIGITS / "digits-v1.onnx", DATA, model="digits", version="1.0.0", out=tmp_path / "b", classes=names
    )
    assert bundle.manifest.labels == names
    assert set(decode_profile(bundle.path(bundle.manifest.profile).read_bytes()).classes) == set(names)


def test_a_variant_that_cannot_ship_cannot_be_preferred(tmp_path: Path) -> None:
    path = models.identity(tmp_path / "m.onnx")
    data = {"x": np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)}
    with pytest.raises(SettingsRejected, match="int8-weights cannot be preferred: it changes nothing"):
        converters.convert(path, data, model="m", version="1.0.0", out=tmp_path / "b", prefer="int8-weights")


def test_progress_is_told_and_never_goes_back(tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    converters.convert(
        DIGITS / "digits-v1.onnx", DATA, model="digits", version="1.0.0", out=tmp_path / "b",
        progress=lambda text, done: told.append((text, done)),
    )  # fmt: skip
    shares = [done for _, done in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)


def edgeward(*arguments: object, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "COLUMNS": "100"}  # noqa: TID251 -- a child's environment
    return subprocess.run(
        [sys.executable, "-m", "edgeward", *map(str, arguments)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100,
    )  # fmt: skip


def ends(*arguments: object) -> int:
    """The exit code of the command, run in this process."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_command_prints_json_and_nothing_else_on_stdout(tmp_path: Path) -> None:
    done = edgeward(
        "convert", DIGITS / "digits-v2.onnx", "--data", DATA, "--name", "digits", "--version", "1.1.0", "--json",
        "--out", tmp_path / "b",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["digest"] == open_bundle(tmp_path / "b").digest
    assert {variant["name"] for variant in said["report"]["variants"]} == VARIANTS
    assert set(said["timing"]["variants"]) == VARIANTS
    assert "onnxruntime" in said["timing"]["engine"].lower()
    assert "LiteRT" in said["timing"]["engine"]


def test_the_command_shows_a_table_and_where_the_report_is(digits: dict[str, Bundle], tmp_path: Path) -> None:
    done = edgeward(
        "convert", digits["1.2.0"].directory / "variants" / "float32.onnx", "--data", DATA, "--name", "digits",
        "--version", "1.2.0", "--out", tmp_path / "b", "--no-tflite",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Warning: The float model itself" in done.stderr
    assert "int8-static" in done.stdout
    assert "parity.html" in done.stdout


def test_inspect_and_verify_show_a_whole_bundle(digits: dict[str, Bundle]) -> None:
    bundle = digits["1.0.0"]
    shown = edgeward("inspect", bundle.directory)
    assert shown.returncode == 0, shown.stderr
    assert bundle.digest in shown.stdout
    assert json.loads(edgeward("inspect", bundle.directory, "--json").stdout)["manifest"]["model"] == "digits"
    verified = edgeward("verify", bundle.directory)
    assert verified.returncode == 0, verified.stderr
    assert "Whole:" in verified.stdout
    assert json.loads(edgeward("verify", bundle.directory, "--json").stdout)["files"] == 8


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["convert", "nothing.onnx", "--data", DATA], "nothing.onnx does not exist"),
        (["convert", ROOT / "README.md", "--data", DATA], "is not an ONNX file"),
        (["convert", DIGITS / "digits-v1.onnx", "--data", "nothing.npz"], "nothing.npz does not exist"),
        (["convert", DIGITS / "digits-v1.onnx", "--data", ROOT / "README.md"], "is not an .npz file"),
        (["convert", DIGITS / "digits-v1.onnx", "--data", DATA, "--min-accuracy", "0.999"], "at least 99.90% was asked for"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[object], match: str
) -> None:
    code = ends(*arguments, "--name", "digits", "--version", "1.0.0", "--out", tmp_path / "b")
    said = capsys.readouterr()
    assert code == 1
    assert match in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert said.out == ""
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("option", [("--budget", "500"), ("--min-accuracy", "95"), ("--seed", "-1"), ("--prefer", "int4")])
def test_a_number_out_of_range_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: tuple[str, str]
) -> None:
    given = ["convert", "m.onnx", "--data", "d.npz", "--name", "m", "--version", "1.0.0", "--out", tmp_path / "b"]
    assert ends(*given, *option) == 2
    assert option[0] in capsys.readouterr().err


def test_verify_fails_on_a_directory_that_is_no_bundle(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends("verify", DIGITS) == 1
    assert "has no manifest.json" in capsys.readouterr().err


def test_a_full_disk_for_temporary_files_is_said(tmp_path: Path) -> None:
    code = f"""
import resource, sys
from pathlib import Path
import converters
from fleet_io.errors import BundleUnwritable
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    converters.convert(Path({str(DIGITS / "digits-v1.onnx")!r}), Path({str(DATA)!r}), model="digits", version="1.0.0",
                       out=Path({str(tmp_path / "b")!r}))
except BundleUnwritable as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert "cannot write its temporary files" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_is_refused_before_any_work(tmp_path: Path) -> None:
    check_room(8000, 1000, tmp_path)
    with pytest.raises(BundleUnwritable, match=f"needs 8000 bytes for temporary files in {tmp_path}, and 7999 are free"):
        check_room(7999, 1000, tmp_path)


def test_a_conversion_killed_at_any_step_leaves_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    (tmp_path / "out").mkdir()
    code = f"""
import os, signal, sys
from pathlib import Path
import converters
def kill(text, done):
    if text.startswith(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
converters.convert(Path({str(DIGITS / "digits-v1.onnx")!r}), Path({str(DATA)!r}), model="digits", version="1.0.0",
                   out=Path({str(tmp_path / "out" / "b")!r}), progress=kill, tflite=False)
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}  # noqa: TID251 -- a child's environment
    for step in ("reading the model", "making and measuring int8-weights", "writing"):
        done = subprocess.run([sys.executable, "-c", code, step], cwd=ROOT, capture_output=True, timeout=100, env=environment)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert list((tmp_path / "out").iterdir()) == []
