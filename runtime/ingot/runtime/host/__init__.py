"""What no kernel does: operators on text and encoded images, computed by the host between kernels.

`functions` is the closed list of what a program may call, `pool` gives strings the handles that code works with,
`calls` says how an artifact names the calls, `lane` answers them during a run.
"""
