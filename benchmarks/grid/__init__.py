"""The grid: every operator of ai.onnx, in every version and element type, with examples for each, by every executor."""
