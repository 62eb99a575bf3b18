"""Quantization-aware fine-tuning: 8-bit rounding is imitated in the forward pass, and the weights learn to stand it.

torchao puts the imitation into a traced copy of the module (PT2E), with batch normalisation folded as at inference. Afterwards
the trained weights go back into the module itself, which takes the same way to int8 as every other: what is measured there is
onnxruntime's arithmetic and not the imitation. Scales of weights are those that the static recipe will find again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from converters.compression import toolkit
from converters.compression.objective import Objective
from converters.compression.recipes import QatRecipe
from converters.compression.training import Fitted, Trainer, first_line
from converters.errors import RecipeFailed

if TYPE_CHECKING:
    import torch

_SETTLED: Final = 0.7
"""From this share of the training on, ranges and batch statistics stand still."""
_TRACED: Final = 4


def fit_quantized(
    module: torch.nn.Module, recipe: QatRecipe, trainer: Trainer, objective: Objective, *, weight_bits: int
) -> tuple[Fitted, str]:
    """Fine-tune `module` in place for weights of 7 or 8 bits; how the training went, and what was done, for people.

    Raises `RecipeFailed` where torchao cannot trace it, or finds nothing to quantize.
    """
    imitation = _imitation(module, trainer, weight_bits)
    pt2e = toolkit.torchao("quantization.pt2e")
    pt2e.move_exported_model_to_train(imitation)

    def settle(done: float) -> None:
        if done >= _SETTLED:
            imitation.apply(pt2e.disable_observer)

    fitted = trainer.fit(imitation, objective, recipe.schedule, after_epoch=settle)
    pt2e.move_exported_model_to_eval(imitation)
    _give_back(imitation, module)
    return fitted, f"its weights learned to stand rounding to {weight_bits} bits, activations to 8"


def _imitation(module: torch.nn.Module, trainer: Trainer, weight_bits: int) -> Any:  # noqa: ANN401  # torch may be missing
    torch = toolkit.torch()
    prepare = toolkit.torchao("quantization.pt2e.quantize_pt2e").prepare_qat_pt2e
    logging.getLogger("torch.export").setLevel(logging.CRITICAL)
    examples = trainer.some(_TRACED)
    free = tuple({0: torch.export.Dim.DYNAMIC} for _ in examples)
    try:
        traced = torch.export.export(module.train(), examples, dynamic_shapes=free).module(check_guards=False)
        imitation = prepare(traced, _quantizer(weight_bits))
    except Exception as error:  # torch and torchao raise as many kinds as a module can be untraceable
        raise RecipeFailed(f"cannot be traced for quantization-aware training: {first_line(error)}") from error
    if not any("FakeQuantize" in type(each).__name__ for each in imitation.modules()):
        raise RecipeFailed("has no layer that could be quantized")
    return imitation


def _quantizer(weight_bits: int) -> object:
    """What onnxruntime's static recipe does, said to torchao: uint8 activations a tensor, int8 weights a channel."""
    torch = toolkit.torch()
    inductor = toolkit.torchao("quantization.pt2e.quantizer.x86_inductor_quantizer")
    pt2e = toolkit.torchao("quantization.pt2e")
    spec = toolkit.torchao("quantization.pt2e.quantizer").QuantizationSpec
    largest = 64 if weight_bits == 7 else 127
    imitate: Any = pt2e.FusedMovingAvgObsFakeQuantize
    activations = spec(
        dtype=torch.uint8, quant_min=0, quant_max=255, qscheme=torch.per_tensor_affine, is_dynamic=False,
        observer_or_fake_quant_ctr=imitate.with_args(eps=2**-12),
    )  # fmt: skip
    weights = spec(
        dtype=torch.int8, quant_min=-largest, quant_max=largest, qscheme=torch.per_channel_symmetric, ch_axis=0,
        is_dynamic=False,
        observer_or_fake_quant_ctr=imitate.with_args(
            eps=2**-16, averaging_constant=1.0, observer=pt2e.MovingAveragePerChannelMinMaxObserver
        ),
    )  # fmt: skip
    quantizer = inductor.X86InductorQuantizer()
    quantizer.set_global(inductor.QuantizationConfig(activations, activations, weights, None, is_qat=True))
    return quantizer


def _give_back(imitation: torch.nn.Module, module: torch.nn.Module) -> None:
    """The trained weights and statistics, by their names, into the module that they came from."""
    trained = imitation.state_dict()
    own = module.state_dict()
    lost = [name for name, _ in module.named_parameters() if name not in trained]
    if lost:
        raise RecipeFailed(f"lost its parameter {lost[0]!r} in torchao's tracing")
    module.load_state_dict({name: trained.get(name, value) for name, value in own.items()})
