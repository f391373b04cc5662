"""Measuring models: honest timing of several engines, and how well their results agree."""
