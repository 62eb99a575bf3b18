"""The Open Inference Protocol's OpenAPI document (docs/openapi/) held against the server by schemathesis.

As it stands, whatever is asked by it or against it gets an answer that it knows; narrowed to the model's own tensors, every
request that it allows is answered.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import settings
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

import runtime
from runtime import ModelHost, ModelIdentity
from runtime.local_server.server import LocalServer
from tests.support import models

DOCUMENT: dict[str, Any] = json.loads((Path(__file__).parents[2] / "docs/openapi/open_inference.json").read_text())
MODELS: tuple[str, ...] = ("digits", "other")


def naming(document: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The document with models and versions that there are, so that requests get further than 404."""
    changed = copy.deepcopy(document)
    for path in changed["paths"].values():
        for parameter in path.get("parameters", ()):
            parameter["schema"]["enum"] = list(names) if parameter["name"] == "MODEL_NAME" else ["1.0.0"]
    return changed


def narrowed() -> dict[str, Any]:
    """The document of this one model."""
    changed = naming(DOCUMENT, ("digits",))
    schemas = changed["components"]["schemas"]
    schemas["request_input"]["properties"] |= {
        "name": {"enum": ["pixels"]},
        "shape": {"enum": [[1, 64]]},
        "datatype": {"enum": ["FP32"]},
        "data": {
            "type": "array",
            "items": {"type": "number", "minimum": -1e30, "maximum": 1e30},
            "minItems": 64,
            "maxItems": 64,
        },
        "parameters": {"type": "object", "additionalProperties": False},
    }
    schemas["request_output"]["properties"] |= {"name": {"enum": ["scores"]}, "parameters": {"enum": [{}]}}
    request = schemas["inference_request"]["properties"]
    request["inputs"] |= {"minItems": 1, "maxItems": 1}
    request["id"] = {"type": "string", "maxLength": 100}
    request["parameters"] = {"type": "object", "properties": {"origin": {"type": "string"}}, "additionalProperties": False}
    return changed


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    host = ModelHost()
    path = models.linear_classifier(tmp_path_factory.mktemp("model") / "digits.onnx")
    host.activate(ModelIdentity("digits", "1.0.0", "sha256:" + "0" * 64, "float"), runtime.load(path))
    server = LocalServer(host)
    server.start()
    yield server.url
    server.stop()


as_it_stands = schemathesis.openapi.from_dict(naming(DOCUMENT, MODELS))
of_this_model = schemathesis.openapi.from_dict(narrowed())


@as_it_stands.parametrize()
@settings(max_examples=10)
def test_whatever_is_asked_gets_an_answer_that_the_document_knows(case: Any, url: str) -> None:
    case.call_and_validate(base_url=url, timeout=10, excluded_checks=[positive_data_acceptance, negative_data_rejection])


@of_this_model.include(path_regex="infer$").parametrize()
@settings(max_examples=15)
def test_what_fits_the_model_is_answered(case: Any, url: str) -> None:
    case.call_and_validate(base_url=url, timeout=10, excluded_checks=[negative_data_rejection])
