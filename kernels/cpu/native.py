"""What compiled code needs and numba has no word for: one machine operation each, written as the LLVM it stands for.

Each is called from compiled functions only; arrays are one-dimensional and contiguous, and nothing checks an index.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

BLOCK = 64  # features that `active_mask` looks at: one bit each in the widest word there is

_READ, _INTO_L2, _DATA = 0, 2, 1  # arguments of LLVM's prefetch: L2, because L1 would throw the lines out before they are used
_INT32, _FLOAT, _DOUBLE = ir.IntType(32), ir.FloatType(), ir.DoubleType()


def _address(context, builder, signature, arguments, index):
    """The address of element `index` of the array that is the first argument."""
    data = cgutils.create_struct_proxy(signature.args[0])(context, builder, value=arguments[0]).data
    return builder.gep(data, [index])


@intrinsic
def _prefetch(typingctx, array, index):
    def generate(context, builder, signature, arguments):
        address = builder.bitcast(_address(context, builder, signature, arguments, arguments[1]), cgutils.voidptr_t)
        call = builder.module.declare_intrinsic(
            "llvm.prefetch", [cgutils.voidptr_t], ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, _INT32, _INT32, _INT32])
        )
        builder.call(call, [address, _INT32(_READ), _INT32(_INTO_L2), _INT32(_DATA)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@intrinsic
def _active_mask(typingctx, row, start):
    def generate(context, builder, signature, arguments):
        lanes = ir.VectorType(_FLOAT, BLOCK)
        address = _address(context, builder, signature, arguments, arguments[1])
        values = builder.load(builder.bitcast(address, lanes.as_pointer()), align=4)
        active = builder.fcmp_unordered(">", values, ir.Constant(lanes, [0.0] * BLOCK))  # unordered: true for NaN
        return builder.bitcast(active, ir.IntType(BLOCK))

    return types.uint64(row, types.intp), generate


@intrinsic
def _trailing_zeros(typingctx, word):
    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return types.int64(types.uint64), generate


@intrinsic
def _ones(typingctx, word):
    def generate(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


@intrinsic
def _add_to_cell(typingctx, cells, index, product, count):
    def generate(context, builder, signature, arguments):
        two = ir.VectorType(_DOUBLE, 2)
        first = builder.shl(arguments[1], arguments[1].type(1))
        address = builder.bitcast(_address(context, builder, signature, arguments, first), two.as_pointer())
        more = builder.insert_element(ir.Constant(two, ir.Undefined), arguments[2], _INT32(0))
        more = builder.insert_element(more, arguments[3], _INT32(1))
        builder.store(builder.fadd(builder.load(address, align=8), more), address, align=8)
        return context.get_dummy_value()

    return types.void(cells, types.uint64, types.float64, types.float64), generate


# As compiled code calls them: numba fills in the typing context.
prefetch = cast(Callable[[np.ndarray, int], None], _prefetch)
"""`prefetch(array, index)` asks for a cache line before it is needed; the index may lie outside of the array."""
active_mask = cast(Callable[[np.ndarray, int], Any], _active_mask)
"""`active_mask(row, start)`: bit k of the uint64 is set where row[start + k] (float32) is not <= 0, k < BLOCK."""
trailing_zeros = cast(Callable[[Any], int], _trailing_zeros)
"""`trailing_zeros(word)`: the lowest bit that is set in a uint64 that has one."""
ones = cast(Callable[[Any], Any], _ones)
"""`ones(word)`: how many bits of a uint64 are set, as uint64."""
add_to_cell = cast(Callable[[np.ndarray, Any, float, float], None], _add_to_cell)
"""`add_to_cell(cells, index, product, count)`: cells[2 index] += product, the one behind it += count (float64), at once."""
