"""Child processes for work that may crash, hang or leave an engine in a bad state: one line of JSON asks, one line answers.

Both ends stand here: `Child` starts one and asks it; `serve` is the child's main loop. A child ends when its parent does,
whatever it is doing, since its stdin then ends. What a child is asked stands with those who ask (`runtime.tuning.prepared`,
`runtime.tuning.measurement`); the activation gate has a stricter child of its own, for files that nobody has tried yet.
"""

from __future__ import annotations

import contextlib
import os
import queue
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Final, NoReturn, Self, TypeVar

import msgspec

from runtime.errors import ChildFailed, RuntimeFailure

ORPHANED: Final = 3
"""Exit code of a child whose parent is gone."""

_PIECE_BYTES: Final = 65536
_STDERR_TAIL_BYTES: Final = 300

T = TypeVar("T")


class Answer(msgspec.Struct, frozen=True):
    """One line from a child: a result, or the failure (for people) that came instead."""

    result: msgspec.Raw = msgspec.Raw(b"null")
    failure: str | None = None


class Child:
    """One child process. It is dead when the block ends."""

    def __init__(self, module: str) -> None:
        """Start `python -m module`, whose main calls `serve`. Raises `ChildFailed`."""
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the child
        self._said = b""
        try:
            self._process = subprocess.Popen(
                (sys.executable, "-P", "-B", "-m", module),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                bufsize=0,
            )
        except OSError as error:
            self._stderr.close()
            raise ChildFailed(f"A child process cannot be started: {error}. Free memory or processes.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def close(self) -> None:
        """End the child at once. Closing twice is closing once."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            assert stream is not None
            stream.close()

    def ask(self, order: object, reply: type[T], *, timeout_s: float) -> T:
        """The child's answer to one order. Raises `ChildFailed`; after a crash or a hang every later order fails too."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # it is dead; how it died is told below
            self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        answer = self._decoded(self._line(timeout_s), Answer)
        if answer.failure is not None:
            raise ChildFailed(answer.failure)
        return self._decoded(answer.result, reply)

    def _decoded(self, content: bytes | msgspec.Raw, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.DecodeError as error:
            raise ChildFailed(f"The child process answered nonsense: {error}.") from error

    def _line(self, timeout_s: float) -> bytes:
        deadline = time.perf_counter() + timeout_s
        while b"\n" not in self._said:
            piece = self._piece(deadline - time.perf_counter())
            if piece is None:
                self._process.kill()
                raise ChildFailed(f"The child process did not answer within {timeout_s:g} s and was stopped.")
            if not piece:
                raise ChildFailed(f"The child process {self._ending()}.")
            self._said += piece
        line, _, self._said = self._said.partition(b"\n")
        return line

    def _piece(self, patience_s: float) -> bytes | None:
        """What it says next; nothing when it has ended; None when it stays silent."""
        stdout = self._process.stdout
        if stdout is None or stdout.closed:
            return b""
        ready, _, _ = select.select([stdout], [], [], max(0.0, patience_s))
        return os.read(stdout.fileno(), _PIECE_BYTES) if ready else None

    def _ending(self) -> str:
        code = self._process.wait()
        how = f"crashed ({signal.strsignal(-code) or f'signal {-code}'})" if code < 0 else f"ended with exit code {code}"
        said = "" if self._stderr.closed else self._stderr_tail()
        return how + (f": {said}" if said else "")

    def _stderr_tail(self) -> str:
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _STDERR_TAIL_BYTES))
        lines = self._stderr.read().decode("utf-8", "replace").splitlines()
        # Without what LiteRT says at each start: that all is well.
        return " ".join(word for line in lines if not line.startswith("INFO: ") for word in line.split()).removesuffix(".")


def serve(orders: type[T], answer: Callable[[T], object]) -> NoReturn:
    """The main loop of a child: one answer for each order, until the parent is gone.

    A `RuntimeFailure` is an answer; any other exception ends the child with a traceback on stderr. Nothing else may write to
    its stdout, so that descriptor is moved aside first.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    while True:
        order = msgspec.json.decode(lines.get(), type=orders)
        try:
            said = Answer(result=msgspec.Raw(msgspec.json.encode(answer(order))))
        except RuntimeFailure as error:
            said = Answer(failure=str(error))
        out.write(msgspec.json.encode(said) + b"\n")
        out.flush()


def _read(lines: queue.SimpleQueue[bytes]) -> None:
    # Not through sys.stdin: a child that ends by an exception would wait for its lock, and be aborted without a word.
    with open(0, "rb", closefd=False) as orders:  # a descriptor
        for line in orders:
            lines.put(line)
    os._exit(ORPHANED)
