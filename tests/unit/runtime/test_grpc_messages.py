"""The gRPC messages: what is committed is what the .proto files say, and what other people's clients were made from."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor
from tritonclient.grpc import model_config_pb2, service_pb2

from fleet_protocol.tensors import TensorSpec
from runtime.local_server import tfs_grpc
from runtime.local_server.grpc_messages import message_class

ROOT = Path(__file__).parents[3]


def committed() -> descriptor_pb2.FileDescriptorSet:
    return descriptor_pb2.FileDescriptorSet.FromString((ROOT / "runtime/local_server/protos/descriptors.binpb").read_bytes())


def messages() -> Iterator[Descriptor]:
    """Ours of the Open Inference Protocol, the nested ones too."""
    for file in committed().file:
        if file.package == "inference":
            waiting = [message_class(f"inference.{each.name}").DESCRIPTOR for each in file.message_type]
            while waiting:
                message = waiting.pop()
                yield message
                waiting.extend(message.nested_types)


def theirs(full_name: str) -> Descriptor:
    for module in (service_pb2, model_config_pb2):
        try:
            return module.DESCRIPTOR.pool.FindMessageTypeByName(full_name)  # type: ignore[no-any-return]  # it has no types
        except KeyError:
            continue
    raise AssertionError(full_name)


def test_the_descriptors_are_those_of_the_proto_files(tmp_path: Path) -> None:
    out = tmp_path / "descriptors.binpb"
    subprocess.run(["scripts/compile-protos", sys.executable, out], cwd=ROOT, check=True)
    assert descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()) == committed(), "run scripts/compile-protos"


def test_every_field_is_tritons() -> None:
    seen = 0
    for message in messages():
        known = theirs(message.full_name).fields_by_number
        for field in message.fields:
            assert (field.name, field.type) == (known[field.number].name, known[field.number].type), field.full_name
            assert field.is_repeated == known[field.number].is_repeated, field.full_name
            seen += 1
    assert seen > 100


def test_every_method_takes_and_gives_tritons_messages() -> None:
    known = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    (service,) = (each for file in committed().file if file.package == "inference" for each in file.service)
    for method in service.method:
        their = known[method.name]
        assert (method.input_type, method.output_type) == (f".{their.input_type.full_name}", f".{their.output_type.full_name}")
        assert (method.client_streaming, method.server_streaming) == (their.client_streaming, their.server_streaming)
    spared = {"SystemSharedMemory", "CudaSharedMemory", "TraceSetting", "LogSettings"}
    left_out = set(known) - {method.name for method in service.method}
    assert all(any(name.startswith(each) for each in spared) for name in left_out)


def test_whole_numbers_of_a_feature_stay_what_they_are() -> None:
    request = message_class("tensorflow.serving.ClassificationRequest")()
    example = request.input.example_list.examples.add()
    large = [2**24 + 1, -(2**53) - 1]
    example.features.feature["x"].int64_list.value.extend(large)
    decoded = tfs_grpc.decode_examples(request, (TensorSpec(name="x", datatype="INT64", shape=(-1, 2)),))
    assert decoded["x"].tolist() == [large]
