# llvmlite has no types, and what pyright infers from its source is wrong (builder methods "return None"): everything in
# it counts as Any, so that what is built around it is still checked.
from typing import Any

def __getattr__(name: str) -> Any: ...
