"""Functions of a number by others: angles, hyperbolas, soft and hard thresholds."""

from __future__ import annotations

import math
from typing import Final

from converters.tflite.rewriting.site import Site


def tan(site: Site) -> str:
    """Sine over cosine."""
    return site.add("Div", site.add("Sin", site.input()), site.add("Cos", site.input()))


def asin(site: Site) -> str:
    """The arc of x / √(1 − x²)."""
    return site.add("Atan", site.add("Div", site.input(), _root(site, -1.0)))


def acos(site: Site) -> str:
    """What is left of a right angle."""
    return site.add("Sub", site.number(math.pi / 2), asin(site))


def sinh(site: Site) -> str:
    """(eˣ − e⁻ˣ) / 2."""
    return site.add("Mul", site.add("Sub", *_growing_and_fading(site)), site.number(0.5))


def cosh(site: Site) -> str:
    """(eˣ + e⁻ˣ) / 2."""
    return site.add("Mul", site.add("Add", *_growing_and_fading(site)), site.number(0.5))


def asinh(site: Site) -> str:
    """Sign · log(|x| + √(x² + 1)), which cancels nothing where x is negative."""
    size = site.add("Abs", site.input())
    return site.add("Mul", site.add("Sign", site.input()), site.add("Log", site.add("Add", size, _root(site, 1.0))))


def acosh(site: Site) -> str:
    """log(x + √(x² − 1))."""
    square = site.add("Mul", site.input(), site.input())
    root = site.add("Sqrt", site.add("Sub", square, site.number(1.0)))
    return site.add("Log", site.add("Add", site.input(), root))


def atanh(site: Site) -> str:
    """log((1 + x) / (1 − x)) / 2."""
    one = site.number(1.0)
    ratio = site.add("Div", site.add("Add", one, site.input()), site.add("Sub", one, site.input()))
    return site.add("Mul", site.add("Log", ratio), site.number(0.5))


def shrink(site: Site) -> str:
    """Nearer to 0 by `bias` outside of ±`lambd`, 0 inside."""
    bound, bias = site.number(site.attribute("lambd", 0.5)), site.number(site.attribute("bias", 0.0))
    above = site.add("Where", site.add("Greater", site.input(), bound), site.add("Sub", site.input(), bias), site.number(0))
    below = site.add("Less", site.input(), site.add("Neg", bound))
    return site.add("Where", below, site.add("Add", site.input(), bias), above)


def _root(site: Site, sign: float) -> str:
    """√(1 ± x²)."""
    square = site.add("Mul", site.input(), site.input())
    return site.add("Sqrt", site.add("Add" if sign > 0 else "Sub", site.number(1.0), square))


def _growing_and_fading(site: Site) -> tuple[str, str]:
    return site.add("Exp", site.input()), site.add("Exp", site.add("Neg", site.input()))


RULES: Final = {
    "Acos": acos,
    "Acosh": acosh,
    "Asin": asin,
    "Asinh": asinh,
    "Atanh": atanh,
    "Cosh": cosh,
    "Shrink": shrink,
    "Sinh": sinh,
    "Tan": tan,
}
