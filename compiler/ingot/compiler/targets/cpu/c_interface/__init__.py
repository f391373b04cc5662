"""A compiled model as a library for C: one shared object or object file with the weights inside, and its header.

What the Python runtime does with a manifest is done here by code: the memory plan and the argument table of
`ingot_run` are expressions over the symbolic dims that the library's own functions evaluate.
"""
