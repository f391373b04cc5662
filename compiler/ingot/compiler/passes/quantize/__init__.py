"""Quantisation: passes that put `Quantize` and `Dequantize` around what is to be computed on integers, as QDQ models
have them, and methods that choose the integers."""
