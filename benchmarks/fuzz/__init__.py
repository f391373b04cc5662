"""Random ONNX models, compiled and compared with three oracles: ``python -m benchmarks.fuzz --graphs 100``."""
