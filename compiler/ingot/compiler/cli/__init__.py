"""The command ``ingot``. Its modules, and numpy with them, are imported when it is called: that takes longer than
Python's own start, and whoever interrupts it is to see no traceback."""

from __future__ import annotations

import os
import signal

from ingot.compiler.cli.failures import INTERRUPTED

TYPE_CHECKING = False  # as type checkers see it; `typing` itself takes as long as Python's start
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: that of the process) and give its exit status: 0, 1 where a check found
    something, 2 for anything wrong with what was asked, 3 for a defect of Ingot, 130 when interrupted."""
    before = _leave_on_interrupt()
    from ingot.compiler.cli.command_line import main as run

    if before is not None:
        signal.signal(signal.SIGINT, before)
    return run(argv)


def _leave_on_interrupt() -> Callable[..., Any] | None:
    """End the process at an interrupt, as nothing has been begun: an exception would meet modules that are half
    imported, some of which turn it into another. What was the handler before; None where it is not Python's own or
    this is not the thread that handles signals."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return None
    try:
        signal.signal(signal.SIGINT, _leave)
    except ValueError:
        return None
    return signal.default_int_handler


def _leave(number: int, frame: object) -> None:
    os.write(2, b"ingot: interrupted\n")
    os._exit(INTERRUPTED)
