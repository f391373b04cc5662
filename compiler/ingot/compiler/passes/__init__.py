"""Passes: functions from graph to graph, one subject a file."""
