"""Signals that end a run: it is told once, where it can be told, and what it has is written first."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType, TracebackType
from typing import Any, ClassVar, Self

# SIGINT is Ctrl-C, SIGTERM what batch systems send before they kill, SIGHUP a terminal that was closed.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interrupted(KeyboardInterrupt):
    """A run was told to end.

    Args:
        by: the signal.
    """

    def __init__(self, by: int = signal.SIGINT):
        super().__init__(signal.Signals(by).name)
        self.signal = signal.Signals(by)


def signal_of(error: KeyboardInterrupt) -> signal.Signals:
    """What ended a run; a bare ``KeyboardInterrupt`` counts as Ctrl-C."""
    return error.signal if isinstance(error, Interrupted) else signal.SIGINT


class Interruption:
    """While it is entered, SIGINT, SIGTERM and SIGHUP raise ``Interrupted``, but not where they are ``held``.

    A signal that the process ignores, as SIGHUP under ``nohup``, stays ignored. In a thread other
    than the main one Python delivers no signals, and nothing is changed.

    Args:
        first: called before the error is raised.

    Attributes:
        told: the signal that came, if one did.
    """

    received: ClassVar[signal.Signals | None] = None
    """The last signal that this process was told to end by. A worker that got one begins no other run."""

    def __init__(self, first: Callable[[], None] = lambda: None):
        self.first = first
        self.told: signal.Signals | None = None
        self._raises = True
        self._pending: signal.Signals | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for each in SIGNALS:
                if signal.getsignal(each) != signal.SIG_IGN:
                    self._before[each] = signal.signal(each, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def held(self) -> AbstractContextManager[None]:
        """Nothing is raised within; a signal that came is raised at the end."""
        return self._raising(False)

    def raised(self) -> AbstractContextManager[None]:
        """Within what is held: here signals are raised after all."""
        return self._raising(True)

    @contextmanager
    def _raising(self, raises: bool) -> Iterator[None]:
        before, self._raises = self._raises, raises
        try:
            self._raise_pending()
            yield
        finally:
            self._raises = before
        self._raise_pending()

    def _handle(self, number: int, _: FrameType | None) -> None:
        self._pending = self.told = Interruption.received = signal.Signals(number)
        self._raise_pending()

    def _raise_pending(self) -> None:
        if self._pending is not None and self._raises:
            by, self._pending = self._pending, None
            self.first()
            raise Interrupted(by)
