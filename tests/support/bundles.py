"""Small bundles whose files are any bytes: for code that moves and verifies bundles and never looks inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from fleet_io.bundle_directory import describe
from fleet_protocol.digests import digest_of
from fleet_protocol.manifest import Descriptor, Golden, Lineage, Manifest, Tolerance, Variant
from fleet_protocol.tensors import TensorSpec

CONTENTS = {"variants/a.onnx": b"model" * 50_000, "golden.npz": b"golden", "profile.json": b"{}", "parity.json": b"{ }"}
"""A model of three chunks, and little else."""


def bundle_of(
    work: Path, contents: Mapping[str, bytes], *, chunks: Callable[[bytes], bytes] = lambda right: right
) -> tuple[Manifest, dict[str, Path]]:
    """A manifest over `contents`, and where its files lie (below `work`).

    `contents` has `golden.npz`, `profile.json`, `parity.json` and at least one `variants/NAME.onnx`; `chunks` may spoil the
    chunk lists.
    """
    files = {}
    described: dict[str, Descriptor] = {}
    for at, (name, content) in enumerate(contents.items()):
        files[name] = work / f"content-{at}"
        files[name].write_bytes(content)
        right = describe(files[name], name=name, media_type="application/octet-stream")
        described[name] = msgspec.structs.replace(right, chunks=chunks(right.chunks))
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 1))
    variants = tuple(
        Variant(
            name=Path(name).stem,
            format="onnx",
            precision="float32",
            file=descriptor,
            tolerance=Tolerance(min_sqnr_db=20.0),
        )
        for name, descriptor in described.items()
        if name.startswith("variants/")
    )
    manifest = Manifest(
        model="toy",
        version="1.0.0",
        inputs=(spec,),
        outputs=(spec,),
        variants=variants,
        golden=Golden(file=described["golden.npz"], samples=1),
        profile=described["profile.json"],
        parity=described["parity.json"],
        lineage=Lineage(source=digest_of(b"source"), data=digest_of(b"data")),
    )
    return manifest, files
