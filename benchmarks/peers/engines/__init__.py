"""What the worker does for each peer: a module with ``prepare(job)``, which returns a call without arguments that
computes the outputs in the model's order. Only the environment of that peer can import it."""
