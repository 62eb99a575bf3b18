"""What a person points at: bundles and bare files, whole and damaged."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

import runtime
from fleet_protocol import digests, manifest
from fleet_protocol.states import Running
from fleet_protocol.tensors import TensorSpec
from runtime import ModelRejected
from runtime.sources import find
from tests.support import models

DIGEST = "sha256:" + "0" * 64


def descriptor(path: str, content: bytes) -> manifest.Descriptor:
    return manifest.Descriptor(
        path=path,
        media_type="application/octet-stream",
        digest=digests.digest_of(content),
        size=len(content),
        chunk_size=65536,
        chunks=digests.chunk_digests(digests.split(content, 65536)),
    )


def variant(directory: Path, name: str, **options: str) -> manifest.Variant:
    (directory / "variants").mkdir(exist_ok=True)
    file = models.linear_classifier(directory / "variants" / f"{name}.onnx")
    return manifest.Variant(
        name=name,
        format="onnx",
        precision="float32",
        file=descriptor(f"variants/{name}.onnx", file.read_bytes()),
        tolerance=manifest.Tolerance(min_sqnr_db=20.0),
        session_options=options,
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    directory = tmp_path / "digits-1.2.0"
    directory.mkdir()
    spec = TensorSpec(name="pixels", datatype="FP32", shape=(-1, 64))
    content = manifest.Manifest(
        model="digits",
        version="1.2.0",
        inputs=(spec,),
        outputs=(spec,),
        labels=("zero", "one"),
        variants=(variant(directory, "int8", graph_optimization_level="basic"), variant(directory, "float")),
        golden=manifest.Golden(file=descriptor("golden.npz", b"g"), samples=1),
        profile=descriptor("profile.json", b"p"),
        parity=descriptor("parity.json", b"q"),
        lineage=manifest.Lineage(source=DIGEST, data=DIGEST),
    )
    (directory / "manifest.json").write_bytes(manifest.encode_manifest(content))
    return directory


def test_a_bundle_gives_the_variant_that_its_publisher_prefers(bundle: Path) -> None:
    found = find(bundle)
    assert (found.identity.model, found.identity.version, found.identity.variant) == ("digits", "1.2.0", "int8")
    assert found.identity.manifest == digests.digest_of((bundle / "manifest.json").read_bytes())
    assert (found.labels, dict(found.session_options)) == (("zero", "one"), {"graph_optimization_level": "basic"})
    model = found.load(threads=1)
    assert model({"pixels": models.samples(1)[0]})["scores"].shape == (1, 10)


def test_a_path_may_be_a_text(tmp_path: Path) -> None:
    model = runtime.load(str(models.linear_classifier(tmp_path / "digits.onnx")), threads=1)
    assert model({"pixels": models.samples(1)[0]})["scores"].shape == (1, 10)


def test_a_bundle_gives_the_variant_that_is_named(bundle: Path) -> None:
    assert find(bundle, variant="float").path.name == "float.onnx"
    with pytest.raises(ModelRejected, match=r"no variant 'int4'\. It has: int8, float"):
        find(bundle, variant="int4")


def test_a_changed_file_is_not_loaded(bundle: Path) -> None:
    file = bundle / "variants" / "int8.onnx"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelRejected, match="its digest differs"):
        find(bundle)
    file.write_bytes(content[:-1])
    with pytest.raises(ModelRejected, match="bytes; the manifest says"):
        find(bundle)
    file.unlink()
    with pytest.raises(ModelRejected, match="No such file"):
        find(bundle)


def test_a_link_out_of_the_bundle_is_not_followed(bundle: Path, tmp_path: Path) -> None:
    file = bundle / "variants" / "int8.onnx"
    file.rename(tmp_path / "outside.onnx")
    file.symlink_to(tmp_path / "outside.onnx")
    with pytest.raises(ModelRejected, match="leads out of its bundle"):
        find(bundle)


def test_a_manifest_that_is_none_is_refused(bundle: Path) -> None:
    (bundle / "manifest.json").write_bytes(b"{}")
    with pytest.raises(ModelRejected, match="is not a manifest"):
        find(bundle)


@pytest.mark.parametrize(("file", "name"), [("Digits v2.onnx", "digits-v2"), ("ümlaut.onnx", "mlaut"), ("___.onnx", "model")])
def test_a_bare_file_is_named_after_itself(tmp_path: Path, file: str, name: str) -> None:
    found = find(models.linear_classifier(tmp_path / file))
    assert (found.identity.model, found.identity.version, found.identity.variant) == (name, "0.0.0", "onnx")
    assert found.identity.manifest == digests.digest_of((tmp_path / file).read_bytes())


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match=r"without manifest\.json"):
        find(tmp_path)
    with pytest.raises(ModelRejected, match="No such file"):
        find(tmp_path / "nothing.onnx")
    with pytest.raises(ModelRejected, match="bare model file, which has no variants"):
        find(models.linear_classifier(tmp_path / "model.onnx"), variant="int8")


def test_the_identity_of_a_bare_file_can_travel(tmp_path: Path) -> None:
    """Names that a topic or a report would refuse must not come out of a file name."""
    found = find(models.linear_classifier(tmp_path / ("x" * 100 + ".onnx"))).identity
    report = {"version": found.version, "manifest": found.manifest, "variant": found.variant, "file": found.manifest}
    assert msgspec.convert(report, Running).variant == "onnx"
    assert len(found.model) == 63
