"""Lowering: from a graph of groups to a program of kernels over storages."""
