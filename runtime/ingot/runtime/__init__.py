"""Runs compiled artifacts; needs numpy and nothing else."""
