"""Lines for the user, which never end what they speak of."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import TextIO


def say(line: str, stream: TextIO | None = None) -> None:
    """Print a line. Where nobody reads any more, as after ``| head -1``, or a device is full, it is dropped.

    Args:
        stream: stdout if there is none.
    """
    stream = stream or sys.stdout
    take_any_character(stream)
    try:
        print(line, file=stream, flush=True)
    except OSError:
        silence(stream)


def complain(line: str) -> None:
    """The same on stderr."""
    say(line, sys.stderr)


def as_return(value: float) -> str:
    """A return as it is printed: with a digit behind the point, or three that count where it is small."""
    return f"{value:.1f}" if abs(value) >= 10 or value == 0 else f"{value:.3g}"


def take_any_character(stream: TextIO) -> None:
    """Let a stream write ``?`` for what its encoding has not, as ``±`` in a locale without UTF-8."""
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="replace")


def silence(stream: TextIO) -> None:
    """Lead a stream that cannot be written into nothing: its buffer would be an error again when the process ends."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Show a warning as one line, without the file and the code that it comes from: these are not the user's."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {' '.join(str(message).split())}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before
