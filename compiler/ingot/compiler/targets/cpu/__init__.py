"""The CPU target: LLVM IR for x86-64, AArch64 and whatever else LLVM knows, emitted through llvmlite."""
