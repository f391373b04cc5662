"""Measurements behind the claims of the README. Every script prints its setting and can be run by anyone."""
