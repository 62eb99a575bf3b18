"""The errors of this package. Each class is a decision that a caller can make."""

from __future__ import annotations


class ConversionError(Exception):
    """The conversion stopped before anything was written. The message says what to correct."""


class SourceRejected(ConversionError):
    """The model cannot be read, or cannot be converted. Give another model, or export it again."""


class ReaderMissing(ConversionError):
    """The model is of a kind whose reader is not installed here. Install what the message names."""


class DataRejected(ConversionError):
    """The samples do not fit the model, or are not usable. Give other data."""


class SettingsRejected(ConversionError):
    """A name, version or number given to the conversion is not allowed."""


class AccuracyRefused(ConversionError):
    """The float model itself is worse than the least accuracy that was asked for. Train it again, or ask for less."""


class RecipeFailed(ConversionError):
    """One recipe cannot be applied to this model, or what came out does not run. The others still can.

    The message goes on where "int8-static …" left off, and has no final stop: the parity report puts it into sentences.
    """


class UnsupportedOperator(RecipeFailed):
    """The model has a node for which a TFLite variant has no form. The message names the node and says what to do."""


class TrainingFailed(ConversionError):
    """A training broke: its loss is no number any more. Train more slowly, or with other data."""
