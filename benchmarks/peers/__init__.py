"""Other engines for neural networks on CPUs, each in an environment and a process of its own.

    python -m benchmarks.peers list
    python -m benchmarks.peers install tract iree

`catalogue` says what there is, `environments` installs it, `client` talks to `worker`, which runs in the peer's
environment, and `engines` has what the worker does for each. The worker's side needs numpy and the peer, nothing else.
"""
