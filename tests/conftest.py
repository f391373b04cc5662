"""Settings of all tests."""

from __future__ import annotations

import os
import signal

# Before anything is compiled, and for the processes that tests start: what a test sees must be made by the sources as
# they are, and the user's own cache is not for tests to fill.
os.environ["INGOT_CACHE"] = "0"

# A process in the background may have been started with Ctrl-C ignored, which those that tests start would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
