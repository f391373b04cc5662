"""Finding what is wrong: failures of a model pinned to a rule, made small, or looked for on the user's machine."""
