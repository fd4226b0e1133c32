"""`prefetch(array, index)` for compiled code: asks for a cache line before it is needed, and never faults."""

from collections.abc import Callable
from typing import cast

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

READ, INTO_L2, DATA = 0, 2, 1  # arguments of LLVM's prefetch: L2, because L1 would throw the lines out again before they are used


@intrinsic
def _prefetch(typingctx, array, index):
    """array is one-dimensional and contiguous, index may lie outside of it."""

    def generate(context, builder, signature, arguments):
        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, value=arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), cgutils.voidptr_t)
        number = ir.IntType(32)
        call = builder.module.declare_intrinsic(
            "llvm.prefetch", [cgutils.voidptr_t], ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, number, number, number])
        )
        builder.call(call, [address, number(READ), number(INTO_L2), number(DATA)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


prefetch = cast(Callable[[np.ndarray, int], None], _prefetch)  # as compiled code calls it: numba fills in the typing context
