"""Code generation: one folder a target, and the object file formats they share."""
