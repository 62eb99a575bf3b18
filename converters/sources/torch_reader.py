"""Reads PyTorch: a `torch.export` archive, or a module that a factory builds and a state dict fills. Needs the extra `torch`.

Both become an `ExportedProgram`, and that becomes ONNX by `torch.onnx.export(dynamo=True)`: the older exporter is silently
wrong for some transformers (docs/adr/0013-readers.md). Weights are read without pickles unless they are trusted.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import onnx

from converters.errors import DataRejected, SourceRejected
from converters.sources.exchange import Array, Reading, Request, Samples, needed
from converters.sources.layouts import other_layouts
from converters.sources.matching import free_first_axis, match, rename

_OPSET: Final = 18
_EXAMPLES: Final = 2
"""Samples with which a module is traced: torch takes a first axis of 1 for fixed."""
_UNSUPPORTED: Final = ("No ONNX function found for", "No decompositions")
_DYNAMIC: Final = "dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)"


def load(request: Request) -> Any:  # noqa: ANN401  # torch is not always installed, so its types are not known
    """The module or the exported program. Raises `SourceRejected`, `ReaderMissing`."""
    torch = needed("torch", "torch", "a PyTorch model")
    if request.kind == "torch-export":
        return _program(torch, request)
    module = _built(torch, request)
    if request.state is not None:
        _fill(torch, module, Path(request.state), trusted=request.trust_pickle)
    return module


def read(model: Any, samples: Samples, *, stages: bool) -> Reading:  # noqa: ANN401
    """Turn a module or an exported program into ONNX. Raises `SourceRejected`, `DataRejected`, `ReaderMissing`."""
    torch = needed("torch", "torch", "a PyTorch model")
    script = needed("onnxscript", "torch", "a PyTorch model")
    _silence()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program, feeds = _exported(torch, model, samples)
        _refuse_training(program)
        made = _to_onnx(torch, program)
        inputs = [torch.from_numpy(samples[name].copy()) for name in feeds]
        before = _answers(torch, program, inputs)
        seen = list(_stages(torch, program, inputs)) if stages else []
    _name(made, feeds)
    return Reading(
        model=made,
        before=before,
        tools={"torch": str(torch.__version__), "onnxscript": str(script.__version__)},
        stages=seen,
    )


def _program(torch: Any, request: Request) -> Any:  # noqa: ANN401
    try:
        return torch.export.load(request.location)
    except Exception as error:  # torch raises as many kinds as an archive has parts
        raise SourceRejected(
            f"{request.location} cannot be loaded by torch {torch.__version__}: {_first(error)} It is damaged, of another "
            "version of torch, or holds pickled objects (then --trust-pickle, if you know who made it)."
        ) from error


def _built(torch: Any, request: Request) -> Any:  # noqa: ANN401
    place, _, path = request.location.partition(":")
    try:
        found: Any = importlib.import_module(place)
    except ImportError as error:
        raise SourceRejected(
            f"{request.location}: the module {place!r} cannot be imported: {error}. Run this where it lies, or install it."
        ) from error
    try:
        for part in path.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise SourceRejected(f"{request.location}: {error}.") from error
    if isinstance(found, torch.nn.Module):
        return found
    try:
        module = found()
    except Exception as error:  # the user's own code
        raise SourceRejected(
            f"{request.location} cannot be called without arguments: {type(error).__name__}: {_first(error)} "
            "Name a function that takes none and gives the module."
        ) from error
    if not isinstance(module, torch.nn.Module):
        raise SourceRejected(f"{request.location} gives a {type(module).__name__}, and not a torch.nn.Module.")
    return module


def _fill(torch: Any, module: Any, path: Path, *, trusted: bool) -> None:  # noqa: ANN401
    try:
        state = torch.load(path, map_location="cpu", weights_only=not trusted)
    except FileNotFoundError as error:
        raise SourceRejected(f"{path} does not exist.") from error
    except Exception as error:  # pickle, zip and torch each raise their own
        raise SourceRejected(
            f"{path} is no plain state dict: {_first(error)} Save it with torch.save(model.state_dict(), path). It is not "
            "unpickled, since that could run code; --trust-pickle does, if you know who made it."
        ) from error
    for key in ("state_dict", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise SourceRejected(f"{path} holds a {type(state).__name__}, and not a state dict. Save model.state_dict().")
    try:
        module.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        said = " ".join(str(error).split())
        raise SourceRejected(f"{path} does not fit the module that the factory gives: {said[:400]}") from error


def _exported(torch: Any, model: Any, samples: Samples) -> tuple[Any, list[str]]:  # noqa: ANN401
    """The program, and the names of the samples that feed its inputs, in order."""
    if not isinstance(model, torch.nn.Module):
        feeds = match(list(model.graph_signature.user_inputs), samples, "The exported program")
        _check_batch(model)
        return model, list(feeds.values())
    model = model.cpu().eval()
    taken = _parameters(model)
    feeds = match(taken, samples, f"{type(model).__name__}.forward")
    examples = [torch.from_numpy(samples[name][:_EXAMPLES].copy()) for name in feeds.values()]
    _try(torch, model, examples, list(feeds.values()))
    return _traced(torch, model, examples), list(feeds.values())


def _parameters(model: Any) -> list[str]:  # noqa: ANN401
    found = inspect.signature(model.forward).parameters.values()
    plain = [each for each in found if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    return [each.name for each in plain if each.default is each.empty]


def _try(torch: Any, model: Any, examples: Sequence[Any], names: Sequence[str]) -> None:  # noqa: ANN401
    """Run the module once: what fails here is the data or the module, and no matter of exporting."""
    try:
        with torch.no_grad():
            model(*examples)
    except Exception as error:  # the user's own code
        hint = _layout_hint(torch, model, examples, names)
        raise DataRejected(
            f"{type(model).__name__} does not run on the data: {type(error).__name__}: {_first(error)}{hint}"
        ) from error


def _layout_hint(torch: Any, model: Any, examples: Sequence[Any], names: Sequence[str]) -> str:  # noqa: ANN401
    if len(examples) == 1 and examples[0].dtype == torch.float64:
        return f" The data is float64; store {names[0]!r} with .astype('float32')."
    for at, example in enumerate(examples):
        for order in other_layouts(example.ndim):
            try:
                with torch.no_grad():
                    model(*examples[:at], example.permute(*order), *examples[at + 1 :])
            except Exception:  # noqa: BLE001, S112  # not this one either
                continue
            return f" It runs with the axes in another order: give {names[at]!r} as numpy.transpose(x, {order})."
    return ""


def _traced(torch: Any, model: Any, examples: Sequence[Any]) -> Any:  # noqa: ANN401
    """Exported with a free first axis where the module allows one, else for single samples."""
    free = tuple({0: torch.export.Dim.DYNAMIC} for _ in examples)
    with contextlib.suppress(Exception):  # torch raises as many kinds as a module can insist on one size
        return torch.export.export(model, tuple(examples), dynamic_shapes=free)
    try:
        return torch.export.export(model, tuple(example[:1] for example in examples))
    except Exception as error:
        raise SourceRejected(
            f"{type(model).__name__} cannot be exported by torch {torch.__version__}: {_first(error)} Control flow that "
            "depends on the data must go; torch.export's documentation says how."
        ) from error


def _check_batch(program: Any) -> None:  # noqa: ANN401
    wanted = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        if node.op != "placeholder" or node.name not in wanted or not node.meta["val"].ndim:
            continue
        size = node.meta["val"].shape[0]
        if isinstance(size, int) and size != 1:
            raise SourceRejected(
                f"The exported program fixes the first axis of {node.name!r} to {size}. Export it again with a free one: "
                f"torch.export.export(model, (example,), {_DYNAMIC})."
            )


def _refuse_training(program: Any) -> None:  # noqa: ANN401
    """Dropout and batch normalisation as in training answer by chance, or by what else is in the batch."""
    for node in program.graph.nodes:
        name = str(node.target)
        dropout = name.startswith("aten.dropout") and len(node.args) > 2 and node.args[2] is True
        batch = name.startswith("aten.batch_norm") and len(node.args) > 5 and node.args[5] is True
        if dropout or batch or name.startswith(("aten._native_batch_norm_legit_functional", "aten.native_dropout")):
            raise SourceRejected(
                f"The program was exported in training mode: {node.name!r} is {name} as in training. Call model.eval() first, "
                "and export it again."
            )


def _to_onnx(torch: Any, program: Any) -> onnx.ModelProto:  # noqa: ANN401
    try:
        made = torch.onnx.export(program, dynamo=True, opset_version=_OPSET, verbose=False)
        model = onnx.ModelProto.FromString(made.model_proto.SerializeToString())
    except Exception as error:  # torch.onnx raises its own and those of its passes
        raise SourceRejected(f"torch.onnx cannot export the program: {_reason(error)}") from error
    free_first_axis(model)
    return model


def _reason(error: BaseException) -> str:
    """What a person can act on: the operator that has no ONNX form and its node, which torch says last."""
    chain: list[str] = []
    while error is not None:
        chain.append(str(error))
        if error.__cause__ is None:
            break
        error = error.__cause__
    for text in reversed(chain):
        lines = [line.strip() for line in text.splitlines() if any(sign in line for sign in _UNSUPPORTED)]
        if lines:
            return f"{lines[0].rstrip('.')}. Write that part of the model with operators that ONNX has, and export again."
    return (chain[-1].strip() or type(error).__name__).splitlines()[0]


def _answers(torch: Any, program: Any, inputs: Sequence[Any]) -> list[Array]:  # noqa: ANN401
    """The program's outputs, batch by batch as its first axis allows."""
    module = program.module()
    sizes = [node.meta["val"].shape[0] for node in program.graph.nodes if node.op == "placeholder" and _is_input(program, node)]
    step = 1 if any(isinstance(size, int) for size in sizes) else len(inputs[0])
    pieces: list[list[Any]] = []
    with torch.no_grad():
        for start in range(0, len(inputs[0]), step):
            answered = module(*[each[start : start + step] for each in inputs])
            pieces.append([leaf for leaf in torch.utils._pytree.tree_leaves(answered) if isinstance(leaf, torch.Tensor)])  # noqa: SLF001  # no public way to take an answer apart
    return [torch.cat(parts).numpy() for parts in zip(*pieces, strict=True)]


def _is_input(program: Any, node: Any) -> bool:  # noqa: ANN401
    return node.name in set(program.graph_signature.user_inputs) and node.meta["val"].ndim > 0


def _stages(torch: Any, program: Any, inputs: Sequence[Any]) -> Iterator[tuple[str, Array]]:  # noqa: ANN401
    """What each operator answers, in order."""
    found: list[tuple[str, Array]] = []

    class Watching(torch.fx.Interpreter):  # type: ignore[misc]  # torch is not always installed
        def run_node(self, n: Any) -> Any:  # noqa: ANN401
            value = super().run_node(n)
            if n.op == "call_function" and isinstance(value, torch.Tensor) and value.is_floating_point():
                found.append((f"{n.target} {n.name!r}", value.detach().numpy().copy()))
            return value

    with torch.no_grad():
        Watching(program.module(check_guards=False)).run(*[each[:1] for each in inputs])
    return iter(found)


def _name(model: onnx.ModelProto, feeds: Sequence[str]) -> None:
    names = dict(zip((value.name for value in model.graph.input), feeds, strict=True))
    outputs = [value.name for value in model.graph.output]
    names |= {name: "output" if len(outputs) == 1 else f"output_{at}" for at, name in enumerate(outputs)}
    rename(model, names)


def _silence() -> None:
    for name in ("torch.onnx", "torch.export", "torch._dynamo", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _first(error: BaseException) -> str:
    lines = (str(error).strip() or type(error).__name__).splitlines()
    return f"{lines[0].rstrip('.')}."
