"""The operators, one family a file. Importing this package makes every op known to the text form."""

from ingot.compiler.ops import composite, control, fused, linear, movement, pointwise, recurrent, reduction

__all__ = ["composite", "control", "fused", "linear", "movement", "pointwise", "recurrent", "reduction"]
