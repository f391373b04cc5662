"""Pruning: which weights of a graph become zero, and what makes up for them. Graph -> Graph, with numpy alone."""
