"""Schedules by measurement: what the cost model chose beside what else the code generator can do, on this machine.

Measuring is asked for (`tuning.Tuning`), bounded in time, and kept in a record (`record`) from which the same artifact
is made again without measuring.
"""
