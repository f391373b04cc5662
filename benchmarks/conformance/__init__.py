"""ONNX's own backend tests: each case compiled to native code and run, beside onnx.reference and ONNX Runtime."""
