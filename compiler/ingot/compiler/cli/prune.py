"""``ingot prune``: a model with zeros in its weights, as an ONNX model or an artifact."""

from __future__ import annotations

import argparse
from pathlib import Path

from ingot.compiler.cli.compile import input_names
from ingot.compiler.cli.compressing import add_data_arguments, add_output_arguments, read_data, require_outputs, written
from ingot.compiler.cli.console import Console
from ingot.compiler.cli.custom import add_custom_argument, load_custom
from ingot.compiler.cli.passes import working_directory_importable
from ingot.compiler.cli.shapes import HELP as SHAPE_HELP
from ingot.compiler.cli.shapes import for_compile

HELP = "prune a model (.onnx) and write it as ONNX or as an artifact"
