# SPDX-License-Identifier: Apache-2.0
"""How far rounding alone can move a result: numbers that remember how they were made.

Each step of an equation is a `Number` with its derivatives. A rounding of that step moves the result by at most its own size times
the derivative of the result by the step, and the bound is the sum of that over all steps: to first order, no rounding can do more.
It is not a running sum of interval widths, so what cancels (the maximum in a softmax, Sinkhorn's rescaling) cancels here too.

What is rounded, in each type:

* every single operation of the equations rounds to the type: u |value|; exp, log1p and powers twice, as libraries round them;
* a sum, and a product of matrices, is accumulated in float32 or wider, in any order, and rounds once to the type at its end;
* angles, their sines and cosines are float32 or wider;
* numbers below the smallest normal one may become zero; a number above the largest leaves nothing to say: the bound is infinite;
* inputs are exact: make_cases.py gives only numbers that every type holds.

This file knows nothing of the model.
"""

import heapq
import itertools
import math

import ml_dtypes
import numpy as np


class Type:
    """u: unit roundoff of a store, sum: of the accumulators, tiny: what may be lost near zero."""

    def __init__(self, digits, smallest, largest):
        self.u = 2.0**-digits
        self.sum = min(self.u, 2.0**-24)
        self.tiny = smallest
        self.largest = largest


TYPES = {
    "fp64": Type(53, 2.0**-1022, float(np.finfo(np.float64).max)),
    "fp32": Type(24, 2.0**-126, float(np.finfo(np.float32).max)),
    "fp16": Type(11, 2.0**-25, 65504.0),  # half the smallest subnormal: float16 keeps them
    "bf16": Type(8, 2.0**-126, float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)),
}
_number = itertools.count()


def held(x):
    """Whether every type has this number."""
    with np.errstate(over="ignore"):
        return all(float(np.asarray(x).astype(t)) == x for t in (ml_dtypes.bfloat16, np.float16))


class Number:
    """A value, (number, derivative) of what it was made from, and its roundings: `stores` of the value itself, `sums`, the
    magnitude that a float32 accumulator rounds once, and `bend`, which stands before the square of its unit roundoff."""

    __slots__ = ("value", "made_from", "stores", "sums", "bend", "order")

    def __init__(self, value, made_from=(), stores=1, sums=0.0, bend=0.0):
        self.value, self.made_from, self.stores, self.sums, self.bend = float(value), made_from, stores, sums, bend
        self.order = next(_number)

    def rounding(self, kind):
        if math.isinf(self.value):
            return 0.0  # not visible: exact on both sides
        wide = kind.sum * self.sums + kind.sum**2 * self.bend
        if not self.stores:
            return wide
        if abs(self.value) > kind.largest:
            return math.inf
        return self.stores * max(kind.u * abs(self.value), kind.tiny) + wide

    def __add__(self, other):
        other = number(other)
        return Number(self.value + other.value, ((self, 1.0), (other, 1.0)))

    def __sub__(self, other):
        other = number(other)
        return Number(self.value - other.value, ((self, 1.0), (other, -1.0)))

    def __mul__(self, other):
        other = number(other)
        return Number(self.value * other.value, ((self, other.value), (other, self.value)))

    def __truediv__(self, other):
        other = number(other)
        z = self.value / other.value
        return Number(z, ((self, 1 / other.value), (other, -z / other.value)))

    def __rsub__(self, other):
        return number(other) - self

    def __rtruediv__(self, other):
        return number(other) / self

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self):
        return Number(-self.value, ((self, -1.0),), stores=0)

    def __lt__(self, other):
        return self.value < number(other).value

    def __gt__(self, other):
        return self.value > number(other).value

    def __le__(self, other):
        return self.value <= number(other).value

    def __ge__(self, other):
        return self.value >= number(other).value

    def __float__(self):
        return self.value


def number(x):
    """A constant rounds once, unless every type has it."""
    return x if isinstance(x, Number) else Number(x, stores=0 if held(x) else 1)


def inputs(array):
    """Nested lists of exact numbers."""
    if np.ndim(array) == 0:
        return Number(array, stores=0)
    return [inputs(part) for part in array]


# ---- functions that the equations use -----------------------------------------------------------

def _function(x, value, derivative, stores=1):
    return Number(value, ((x, derivative),), stores)


def exp(x):
    value = math.exp(number(x).value)
    return _function(number(x), value, value, 2)


def log(x):
    x = number(x)
    return _function(x, math.log(x.value), 1 / x.value, 2)


def log1p(x):
    x = number(x)
    return _function(x, math.log1p(x.value), 1 / (1 + x.value), 2)


def sqrt(x):
    x = number(x)
    value = math.sqrt(x.value)
    return _function(x, value, 0.5 / value if value else math.inf)


def power(base, x):
    """A constant to a power that was computed."""
    x = number(x)
    value = base ** x.value
    return _function(x, value, value * math.log(base), 2)


def turn(position, frequency):
    """Cosine and sine of position * frequency. Far angles are off by so much that a circle is no straight line any more."""
    f = number(frequency)
    angle = Number(position * f.value, ((f, float(position)),), stores=0, sums=abs(position * f.value))
    cos, sin, bend = math.cos(angle.value), math.sin(angle.value), angle.value**2 / 2
    return (Number(cos, ((angle, -sin),), stores=0, sums=2 * abs(cos), bend=bend),
            Number(sin, ((angle, cos),), stores=0, sums=2 * abs(sin), bend=bend))


def total(terms):
    """A sum in any order, in float32 or wider, stored once."""
    terms = [number(t) for t in terms]
    return Number(math.fsum(t.value for t in terms), tuple((t, 1.0) for t in terms),
                  sums=max(len(terms) - 1, 0) * math.fsum(abs(t.value) for t in terms))


def dot(a, b):
    """Products and their sum, in float32 or wider, stored once."""
    pairs = [(number(x), number(y)) for x, y in zip(a, b)]
    products = [x.value * y.value for x, y in pairs]
    made = tuple(p for x, y in pairs for p in ((x, y.value), (y, x.value)))
    return Number(math.fsum(products), made, sums=len(pairs) * math.fsum(map(abs, products)))


def clipped(x, low, high):
    """The derivative is one also where the bound holds: another rounding may fall on the other side of it."""
    x = number(x)
    return Number(min(max(x.value, low), high), ((x, 1.0),), stores=0)


# ---- results ------------------------------------------------------------------------------------

def values(results):
    if isinstance(results, (Number, int, float)):
        return float(results)
    return [values(r) for r in results]


def derivatives(result):
    """Of a result by every step that it was made from: the largest number first, so that each is complete when it is read."""
    slopes, waiting, known = {result.order: 1.0}, [-result.order], {result.order: result}
    while waiting:
        step = known[-heapq.heappop(waiting)]
        slope = slopes[step.order]
        yield step, slope
        for source, derivative in step.made_from:
            if source.order not in slopes:
                slopes[source.order], known[source.order] = 0.0, source
                heapq.heappush(waiting, -source.order)
            slopes[source.order] += slope * derivative


def bound_of(result, slopes, kind):
    if math.isinf(result.value):
        return 0.0
    roundings = [(abs(slope), step.rounding(kind)) for step, slope in slopes]
    if any(math.isinf(r) for _, r in roundings):
        return math.inf
    return math.fsum(slope * r for slope, r in roundings if r)


def bounds(results):
    """{type: nested lists}: the type's own roundings, and those of the float64 that the expected value was computed in."""
    if isinstance(results, (int, float)):
        return {name: 0.0 for name in TYPES}
    if isinstance(results, Number):
        slopes = list(derivatives(results))
        own = bound_of(results, slopes, TYPES["fp64"])
        return {name: bound_of(results, slopes, kind) + own for name, kind in TYPES.items()}
    parts = [bounds(r) for r in results]
    return {name: [p[name] for p in parts] for name in TYPES}
