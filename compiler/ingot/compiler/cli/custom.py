"""Custom operators on the command line: ``--custom``."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from ingot.compiler.cli.failures import CommandError, one_line
from ingot.compiler.cli.passes import working_directory_importable

if TYPE_CHECKING:
    from ingot.compiler.ops.custom import CustomOp


def add_custom_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the option that `load_custom` reads."""
    parser.add_argument(
        "--custom",
        action="append",
        default=[],
        metavar="MODULE",
        help="use the custom operators of a module, or of a file that ends in .py (repeatable; the current directory "
        "is searched for modules too)",
    )


def load_custom(specs: Sequence[str]) -> tuple[CustomOp, ...]:
    """The custom operators that the modules and files define. Raises CommandError where there is none, or where one
    cannot be imported."""
    found: dict[int, CustomOp] = {}
    for spec in specs:
        module = _module(spec)
        from ingot.compiler.ops.custom import CustomOp

        operators = [item for item in vars(module).values() if isinstance(item, CustomOp)]
        if not operators:
            raise CommandError(f"--custom {spec}: it defines no operator with custom_op at its top level")
        found.update((id(operator), operator) for operator in operators)
    return tuple(found.values())


def _module(spec: str) -> ModuleType:
    try:
        if not spec.endswith(".py"):
            with working_directory_importable(f"{spec}:_"):
                return importlib.import_module(spec)
        path = Path(spec)
        if not path.is_file():
            raise CommandError(f"--custom {spec}: there is no such file")
        named = importlib.util.spec_from_file_location(path.stem, path)
        if named is None or named.loader is None:
            raise CommandError(f"--custom {spec}: this is no Python file")
        module = importlib.util.module_from_spec(named)
        # Where nothing else has the name: dataclasses and pickles look their module up.
        sys.modules.setdefault(path.stem, module)
        named.loader.exec_module(module)
        return module
    except CommandError:
        raise
    except (Exception, SystemExit) as error:
        raise CommandError(f"--custom {spec}: {type(error).__name__}: {one_line(str(error))}") from error
