"""The target that makes no code: what would be made, for looking at it and for timing what comes before code."""
