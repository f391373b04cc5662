"""Damaged models and artifacts, and what Ingot makes of them."""
