"""Steps before and after a model that become part of it: what users of a model write around its session otherwise.

    input=image:imagenet,size=480x640      output=softmax      output=topk:5

They are compiled and fused with the model; its signature becomes theirs.
"""

from __future__ import annotations

from ingot.compiler.processing.apply import NO_STEPS, Listed, Steps, appended, prepended, read_steps
from ingot.compiler.processing.errors import ProcessingError

__all__ = ["NO_STEPS", "Listed", "ProcessingError", "Steps", "appended", "prepended", "read_steps"]
