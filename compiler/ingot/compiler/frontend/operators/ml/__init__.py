"""Operators of ai.onnx.ml: what comes before and after a model of tables, linear models and trees."""

from ingot.compiler.frontend.operators.ml import ensembles, features, labels, linear
from ingot.compiler.frontend.table import Table

TABLE = Table((ensembles.TABLE, features.TABLE, labels.TABLE, linear.TABLE))

__all__ = ["TABLE"]
