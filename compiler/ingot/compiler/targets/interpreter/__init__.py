"""The interpreter as a target: no code at all, the program run step by step by the meaning of the IR."""
