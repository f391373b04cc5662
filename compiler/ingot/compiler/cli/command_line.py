"""The command line of ``ingot``: one module for each of its sub-commands.

A module has `HELP` (one line), `configure`, which declares the arguments, and `execute`, which does the work and gives
the exit status. Libraries are imported when a command runs, so that `run` and `inspect` work with numpy alone.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Generator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn, Protocol

from ingot.compiler.cli import (
    bench,
    bisect,
    cache,
    check,
    compile,
    cut,
    demo,
    diff,
    export,
    inspect,
    opt,
    profile,
    prune,
    quantize,
    reduce,
    run,
    selftest,
)
from ingot.compiler.cli.console import Console, standard_console
from ingot.compiler.cli.failures import INTERRUPTED, CommandError, explain, one_line, printable
from ingot.compiler.environment import read_environment


class Command(Protocol):
    """What a module of a sub-command has."""

    @property
    def HELP(self) -> str:
        """What the command is for, in one line."""
        ...

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""
        ...

    def execute(self, options: argparse.Namespace, console: Console) -> int:
        """Do the work and give the exit status."""
        ...


COMMANDS: Mapping[str, Command] = MappingProxyType(
    {
        "demo": demo,
        "compile": compile,
        "run": run,
        "bench": bench,
        "profile": profile,
        "diff": diff,
        "inspect": inspect,
        "cache": cache,
        "check": check,
        "opt": opt,
        "export": export,
        "quantize": quantize,
        "prune": prune,
        "cut": cut,
        "bisect": bisect,
        "reduce": reduce,
        "selftest": selftest,
    }
)

FAILED = 2  # what was asked for is wrong or cannot be done
DEFECT = 3  # Ingot itself is wrong
PIPE_CLOSED = 141  # 128 + SIGPIPE


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message} (see {self.prog} --help)")


class CommandParser(Parser):
    """A command's own arguments: what it does not know is its error, not that of the parser of all commands."""

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


def build_parser() -> Parser:
    """The arguments of all commands."""
    parser = Parser(prog="ingot", description="Compile ONNX models to native code, ahead of time.", allow_abbrev=False)
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=CommandParser)
    for name, command in COMMANDS.items():
        sub = subparsers.add_parser(name, help=command.HELP, description=command.HELP, allow_abbrev=False)
        command.configure(sub)
        talk = sub.add_argument_group("output")
        talk.add_argument("--json", action="store_true", help="print one JSON object on stdout, nothing else there")
        talk.add_argument("-v", "--verbose", action="store_true", help="say what is done, step by step")
        talk.add_argument("-q", "--quiet", action="store_true", help="print errors only")
        talk.add_argument("--traceback", action="store_true", help="show the Python traceback of an error too")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """What `ingot.compiler.cli.main` does."""
    show_traceback = False
    try:
        _open_streams()
        environment = read_environment()
        show_traceback = environment.traceback
        try:
            options = build_parser().parse_args(argv)
        except SystemExit as stop:  # --help
            return stop.code if isinstance(stop.code, int) else 0
        if options.version:
            from ingot.runtime import __version__

            print(f"ingot {__version__}")
            return 0
        if options.command is None:
            raise CommandError(f"give a command: {', '.join(COMMANDS)} (see ingot --help)")
        show_traceback = show_traceback or options.traceback
        console = standard_console(
            json=options.json, verbose=options.verbose, quiet=options.quiet, environment=environment
        )
        # With --json nothing but the object may come to stdout, whatever passes or libraries print.
        redirection = contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext()
        with redirection, _warnings_noted(console):
            status = COMMANDS[options.command].execute(options, console)
        sys.stdout.flush()
        return status
    except SystemExit as stop:
        # Commands give their status back: this came from a pass's module or a library, and nothing was finished.
        early = CommandError(f"stopped before the end: something called sys.exit({stop.code!r})")
        return _failed(early, show_traceback)
    except KeyboardInterrupt:
        print("ingot: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _drop_stdout()
        return PIPE_CLOSED
    except Exception as error:
        return _failed(error, show_traceback)


@contextlib.contextmanager
def _warnings_noted(console: Console) -> Generator[None]:
    """Ingot's own warnings as notes, in one line each; those of others as Python shows them."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def note(message: Warning | str, category: type[Warning], *where: Any, **rest: Any) -> None:
            if category.__module__.startswith("ingot."):
                console.note(one_line(str(message)))
            else:
                show(message, category, *where, **rest)

        warnings.showwarning = note
        yield


def _failed(error: Exception, show_traceback: bool) -> int:
    line = explain(error)
    if show_traceback or line is None:
        with contextlib.suppress(OSError):
            traceback.print_exception(error, file=sys.stderr)
    if line is None:
        line = one_line(str(error))
        if type(error).__name__ != "DefectError":  # which says so itself
            line = f"this is a defect of Ingot, please report it: {type(error).__name__}: {line}"
        _complain(line)
        return DEFECT
    _complain(line)
    return FAILED


def _complain(line: str) -> None:
    with contextlib.suppress(OSError):  # stderr is closed or full: the status has to say it
        print(f"ingot: error: {printable(line)}", file=sys.stderr)
        sys.stderr.flush()


def _open_streams() -> None:
    """A process may be started without stdout or stderr: Python has None in their place then, and the next file that is
    opened their number."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (as long as the process runs)


def _drop_stdout() -> None:
    """Nobody reads stdout any more: let the flush at exit go nowhere."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
