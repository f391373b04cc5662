# pyright: basic
# llvmlite is untyped: strict checking would report every builder call.
"""The floating-point mode that kernels run in, whatever mode their caller is in.

The mode is the processor's default (round to nearest even, no traps), so that results are those of IEEE 754 and the
same on every thread; a level that `flushes` treats denormal operands as zeros of their sign and gives
zeros instead of denormal results. On x86-64 that is MXCSR with DAZ and FTZ (Intel SDM, volume 1, 10.2.3), on AArch64
FPCR with FZ (Arm ARM, C5.2.8). Conversions from and to half precision know nothing of either and keep denormals.
"""

from __future__ import annotations

from llvmlite import ir

from ingot.compiler.targets.cpu import declarations, flow
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.functions import I32, I64

_MXCSR, _FLUSHING = 0x1F80, 0x8040  # all exceptions masked; FTZ and DAZ
_EXCEPTIONS = 0x3F  # of MXCSR: flags that operations leave behind, no part of the mode
_FZ = 1 << 24


class FloatMode:
    """The mode of one function that is called from outside: set where this is made, given back by `leave`.

    The register is written where the caller's mode is another one, because that costs more than to read it.
    """

    def __init__(self, b: ir.IRBuilder, level: Level) -> None:
        self.b, self.level = b, level
        if level.arch == "x86-64":
            self.type, self.wanted = I32, I32(_MXCSR | (_FLUSHING if level.flushes else 0))
            self.room = flow.stack(b, I32, 1)
            declarations.call(b, "llvm.x86.sse.stmxcsr", ir.VoidType(), [self.room])
            self.callers = b.load(self.room, typ=I32, align=4)
            mode = b.and_(self.callers, I32(~_EXCEPTIONS))
        else:
            self.type, self.wanted = I64, I64(_FZ if level.flushes else 0)
            mode = self.callers = declarations.call(b, "llvm.aarch64.get.fpcr", I64, [])
        self.differs = b.icmp_unsigned("!=", mode, self.wanted)
        self.enter()

    def enter(self) -> None:
        """Go to the kernels' mode again after `leave`."""
        flow.branch(self.b, self.differs, lambda: self._set(self.wanted), None, odds=(1, 8))

    def leave(self) -> None:
        """Go back to the mode that the caller was in."""
        flow.branch(self.b, self.differs, lambda: self._set(self.callers), None, odds=(1, 8))

    def _set(self, mode: ir.Value) -> None:
        b, void = self.b, ir.VoidType()
        if self.level.arch == "x86-64":
            b.store(mode, self.room, align=4)
            declarations.call(b, "llvm.x86.sse.ldmxcsr", void, [self.room])
        else:
            declarations.call(b, "llvm.aarch64.set.fpcr", void, [mode])
