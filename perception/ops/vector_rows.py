"""Two instructions for what a compiler does not see in compiled loops: to add up short rows of floats in registers.

A row of a head's channels is as long as one or two registers. Written as a loop, the sum goes back to memory after
every row, and is checked for overlap with what is read; here it stays in registers until it is whole. `add_samples`
adds rows that lie scattered in memory, `add_products` the rows of a matrix, for a few rows of another at a time.

Their widths are constants of the code, so a function that calls them is compiled in a closure for each. Such a closure
may hold numbers alone: numba finds what it stored by what a closure holds, and a compiled function is another in every
process.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from perception.ops.processor import HAS_AVX512

CORNERS = 4
ROWS = 6
LANES = 64 if HAS_AVX512 else 16
"""Rows, and floats of each, that `add_products` works on at a time: 24 sums of 16 floats in AVX-512's 32 registers, 12
of 8 in AVX2's 16, 24 of 4 in NEON's 32. With more sums than there are registers, each goes to memory and back.
"""


@intrinsic  # type: ignore[untyped-decorator]
def add_samples(
    _: Any, total: Any, at: Any, values: Any, places: Any, weights: Any, first: Any, last: Any, length: Any
) -> Any:
    """Add rows of `length` floats, a constant, in compiled code.

    For each sample i from `first` to before `last`, and each corner c of it, it adds weights[c * n + i] *
    values[p : p + length], p being places[c * n + i], to total[at : at + length], n samples being given in all. One
    after the other, and each product and each sum rounded: the order of a plain loop, to the bit. All arrays have one
    dimension and no gaps; total and weights hold float32, values float32 or the bits of bfloat16, places int32. Nothing
    is checked.
    """
    if not isinstance(length, types.IntegerLiteral):
        return None
    lanes = length.literal_value
    vector, index = ir.VectorType(ir.FloatType(), lanes), ir.IntType(64)
    undefined, zero = ir.Constant(vector, ir.Undefined), ir.Constant(ir.IntType(32), 0)
    bits, ints = ir.VectorType(ir.IntType(16), lanes), ir.VectorType(ir.IntType(32), lanes)
    everywhere, half = ir.Constant(ints, [0] * lanes), ir.Constant(ints, [16] * lanes)
    small = values.dtype == types.uint16

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        total, values, places, weights = (
            context.make_array(signature.args[i])(context, builder, args[i]) for i in (0, 2, 3, 4)
        )
        count = builder.udiv(builder.extract_value(places.shape, 0), ir.Constant(index, CORNERS))

        def row_at(start: Any, place: Any) -> Any:
            return builder.bitcast(builder.gep(start, [place]), vector.as_pointer())

        def value_at(place: Any) -> Any:
            if not small:
                return builder.load(row_at(values.data, place), align=4)
            there = builder.load(builder.bitcast(builder.gep(values.data, [place]), bits.as_pointer()), align=2)
            return builder.bitcast(builder.shl(builder.zext(there, ints), half), vector)

        target, summed = row_at(total.data, args[1]), cgutils.alloca_once(builder, vector)
        builder.store(builder.load(target, align=4), summed)
        with cgutils.for_range_slice(builder, args[5], args[6], ir.Constant(index, 1)) as (sample, _):
            for corner in range(CORNERS):
                i = builder.add(builder.mul(ir.Constant(index, corner), count), sample)
                place = builder.sext(builder.load(builder.gep(places.data, [i])), index)
                weight = builder.insert_element(undefined, builder.load(builder.gep(weights.data, [i])), zero)
                weight = builder.shuffle_vector(weight, undefined, everywhere)
                product = builder.fmul(value_at(place), weight)
                builder.store(builder.fadd(builder.load(summed), product), summed)
        builder.store(builder.load(summed), target, align=4)
        return context.get_dummy_value()

    return types.void(total, types.intp, values, places, weights, types.intp, types.intp, length), generate


@intrinsic  # type: ignore[untyped-decorator]
def add_products(
    _: Any, total: Any, targets: Any, left: Any, rows: Any, step: Any, first: Any, right: Any, depth: Any,
    count: Any, lanes: Any,
) -> Any:  # fmt: skip
    """Add a product of matrices to `count` rows of `lanes` floats, both constants, in compiled code.

    With i = first + r, r from 0 to before `count`, it adds to total[targets[i] : targets[i] + lanes] the sum over k,
    from 0 to before `depth`, of left[rows[i] + k * step] * right[k * lanes : (k + 1) * lanes]: one after the other,
    from 0, and then the sum. No target may stand twice. All arrays have one dimension and no gaps; total, left and
    right hold float32, targets and rows int64. Nothing is checked.
    """
    if not (isinstance(count, types.IntegerLiteral) and isinstance(lanes, types.IntegerLiteral)):
        return None
    width = lanes.literal_value
    vector, index = ir.VectorType(ir.FloatType(), width), ir.IntType(64)
    undefined, zero = ir.Constant(vector, ir.Undefined), ir.Constant(ir.IntType(32), 0)
    everywhere = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        total, targets, left, rows, right = (
            context.make_array(signature.args[i])(context, builder, args[i]) for i in (0, 1, 2, 3, 6)
        )
        kind = ir.FunctionType(vector, [vector] * 3)
        added = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{width}f32")

        def given(places: Any, r: int) -> Any:
            return builder.load(builder.gep(places.data, [builder.add(args[5], ir.Constant(index, r))]))

        sums = [
            cgutils.alloca_once_value(builder, ir.Constant(vector, [0.0] * width)) for _ in range(count.literal_value)
        ]
        begins = [builder.gep(left.data, [given(rows, r)]) for r in range(len(sums))]
        with cgutils.for_range(builder, args[7]) as loop:
            start = builder.gep(right.data, [builder.mul(loop.index, ir.Constant(index, width))])
            row = builder.load(builder.bitcast(start, vector.as_pointer()), align=4)
            along = builder.mul(loop.index, args[4])
            for summed, begin in zip(sums, begins, strict=True):
                factor = builder.insert_element(undefined, builder.load(builder.gep(begin, [along])), zero)
                factor = builder.shuffle_vector(factor, undefined, everywhere)
                builder.store(builder.call(added, [factor, row, builder.load(summed)]), summed)
        for r, summed in enumerate(sums):
            target = builder.bitcast(builder.gep(total.data, [given(targets, r)]), vector.as_pointer())
            builder.store(builder.fadd(builder.load(target, align=4), builder.load(summed)), target, align=4)
        return context.get_dummy_value()

    places = (types.intp, types.intp, right, types.intp)
    return types.void(total, targets, left, rows, *places, count, lanes), generate


__all__ = ["CORNERS", "LANES", "ROWS", "add_products", "add_samples"]
