"""The function by which code reaches Python while it runs: ``i32 callback(i64 *words)``.

With the words of a host step (`ingot.runtime.host.lane`) it answers that. Without any it only gives Python the occasion
to do what waits for it, such as the handlers of signals: loops call it so a few times a second. KeyboardInterrupt then
ends a run that takes too long. The result is 1 where the run goes on and 0 where it ends.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Generator
from typing import Any, Final

from ingot.runtime.errors import RuntimeFault

INTERRUPTED: Final = -2
"""What ingot_run returns after the callback has ended it in a loop."""

_FUNCTION: Final = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)


class Callback:
    """The function for one run at a time. `answer` does a host step, given the address of its words."""

    def __init__(self, answer: Callable[[int], None] | None = None) -> None:
        self._caught: list[BaseException] = []
        answers = _answers(self._caught, answer)
        next(answers)
        self._function = _FUNCTION(answers.send)
        self.address: int = ctypes.cast(self._function, ctypes.c_void_p).value or 0

    @property
    def error(self) -> BaseException | None:
        """Why the run ended, until `take` is called."""
        return self._caught[0] if self._caught else None

    def take(self) -> BaseException | None:
        """`error`, which is forgotten."""
        error = self.error
        self._caught.clear()
        return error


def _answers(caught: list[BaseException], answer: Callable[[int], None] | None) -> Generator[int, Any, None]:
    """Whether to go on, for each address of words that is sent.

    Nothing can be raised through the code. A function of Python would not do for that: handlers of signals run when it
    is entered, which is before its first `try`. This is entered within one.
    """
    goes_on = 1
    while True:
        try:
            while True:
                words = yield goes_on
                goes_on = 1
                if words is not None:
                    if answer is None:
                        raise RuntimeFault("the artifact asks for a step of the host and does not say which")
                    answer(words)
        except GeneratorExit:
            return
        except BaseException as error:
            caught.append(error)
            goes_on = 0
