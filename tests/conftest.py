"""Settings of all tests."""

from __future__ import annotations

import os

# Before anything is compiled, and for the processes that tests start: what a test sees must be made by the sources as
# they are, and the user's own cache is not for tests to fill.
os.environ["INGOT_CACHE"] = "0"
