"""The child process in which a framework runs: its crash, its noise and its gigabytes stay out of the conversion.

`python -m converters.sources.child DIRECTORY` reads the request and the samples that lie there, and leaves the model, what
the framework answers, and the answer beside them. What a file makes go wrong is an answer too; only a crash leaves none.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path
from typing import Final

import msgspec

from converters.errors import DataRejected, ReaderMissing, SourceRejected
from converters.sources.exchange import (
    ANSWER_FILE,
    BEFORE_FILE,
    MODEL_FILE,
    REQUEST_FILE,
    SAMPLES_FILE,
    Answer,
    Kind,
    Reading,
    Request,
    load_arrays,
    save_arrays,
)

READERS: Final[dict[Kind, str]] = {
    "keras": "keras_reader",
    "saved-model": "keras_reader",
    "torch-export": "torch_reader",
    "torch-factory": "torch_reader",
    "sklearn": "sklearn_reader",
    "skops": "sklearn_reader",
    "tflite": "tflite_reader",
}


def main(directory: Path) -> None:
    """Answer the request that lies in `directory`."""
    request = msgspec.json.decode((directory / REQUEST_FILE).read_bytes(), type=Request)
    sys.path.append(str(Path.cwd()))  # where a factory's module lies; last, so that it hides nothing of ours
    warnings.simplefilter("ignore")
    answer = _answered(request, directory)
    (directory / ANSWER_FILE).write_bytes(msgspec.json.encode(answer))


def _answered(request: Request, directory: Path) -> Answer:
    try:
        reader = importlib.import_module(f"converters.sources.{READERS[request.kind]}")
        reading = reader.read(reader.load(request), load_arrays(directory / SAMPLES_FILE), stages=request.stages)
    except SourceRejected as error:
        return Answer(failure=str(error))
    except DataRejected as error:
        return Answer(failure=str(error), about="data")
    except ReaderMissing as error:
        return Answer(failure=str(error), about="missing")
    except MemoryError:
        return Answer(failure=f"{request.location} needs more memory than this machine has.")
    return _kept(reading, directory)


def _kept(reading: Reading, directory: Path) -> Answer:
    arrays = {f"output/{at}": values for at, values in enumerate(reading.before)}
    arrays |= {f"stage/{at}": values for at, (_, values) in enumerate(reading.stages)}
    save_arrays(directory / BEFORE_FILE, arrays)
    (directory / MODEL_FILE).write_bytes(reading.model.SerializeToString(deterministic=True))
    return Answer(
        tools=dict(reading.tools),
        tolerated=reading.tolerated,
        classes=reading.classes,
        stages=tuple(name for name, _ in reading.stages),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
