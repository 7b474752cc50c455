"""How numbers and names are written on the page: 0.6978(12), 3 min 12 s, 16,384, ⟨Q²⟩."""

# ruff: noqa: RUF001  (the page is typeset: true minus signs, dashes and Greek letters)

from __future__ import annotations

import math
import numbers
import re
from typing import Any

# In the order in which tables show them.
_LABELS = {
    "plaquette": "plaquette",
    "action_density": "action density S/V",
    "wilson_loop": "Wilson loop",
    "creutz_ratio": "Creutz ratio",
    "smeared_wilson_loop": "smeared Wilson loop",
    "smeared_temporal_loop": "smeared Wilson loop in time",
    "smeared_creutz_ratio": "smeared Creutz ratio",
    "polyakov": "Re Polyakov loop",
    "polyakov_abs": "|Polyakov loop|",
    "polyakov2": "|Polyakov loop|²",
    "polyakov_susceptibility": "Polyakov susceptibility",
    "q": "topological charge Q",
    "q2": "⟨Q²⟩",
    "chi_top": "χ_top = ⟨Q²⟩/V",
    "t_0": "gradient-flow scale t₀",
    "t_0p35": "gradient-flow scale t at 0.35",
    "t_0_plaquette": "gradient-flow scale t₀, plaquette",
    "w_0": "gradient-flow scale w₀",
    "pion": "pion correlator",
    "pion_effective_mass": "effective pion mass",
    "pion_mass": "pion mass",
    "condensate": "condensate Re Tr D⁻¹/V",
    "det_sign": "sign of det D",
    "magnetisation": "magnetisation M",
    "abs_magnetisation": "⟨|M|⟩",
    "magnetisation2": "⟨M²⟩",
    "magnetisation4": "⟨M⁴⟩",
    "susceptibility": "susceptibility χ",
    "binder_cumulant": "Binder cumulant",
    "abs_phi": "⟨|φ|⟩",
    "phi2": "⟨φ²⟩",
    "phi4": "⟨φ⁴⟩",
    "two_point": "two-point function",
    "two_point_connected": "connected two-point function",
    "effective_mass": "effective mass",
    "pole_mass": "pole mass",
    "correlation_length": "correlation length ξ",
}
_SIZED = re.compile(r"((?:smeared_)?(?:wilson_loop|temporal_loop|creutz_ratio))_(\d+)x(\d+)")
_ROUNDING = 1e-9  # a smaller relative error is no more than rounding
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_BASELINES = {"hmc": "HMC", "heatbath": "heatbath", "metropolis": "local Metropolis"}


def label(name: str) -> str:
    """Readable name of an observable; unknown names only lose their underscores."""
    if name in _LABELS:
        return _LABELS[name]
    if match := _SIZED.fullmatch(name):
        return f"{_LABELS[match[1]]} {match[2]}×{match[3]}"
    return name.replace("_", " ")


def order(name: str) -> tuple[int, int, int]:
    """Sort key of an observable: kinds as in the list of labels, loops by size, unknown names last."""
    names = list(_LABELS)
    match = _SIZED.fullmatch(name)
    stem = match[1] if match else name
    place = names.index(stem) if stem in _LABELS else len(names)
    return (place, int(match[2]) * int(match[3]), int(match[2])) if match else (place, 0, 0)


def quantity(name: str) -> str:
    """The observable on one configuration: its label without the angles of an average."""
    return label(name).replace("⟨", "").replace("⟩", "").partition(" = ")[0]


def capital(text: str) -> str:
    """The text with a capital letter in front, unless it begins with a symbol."""
    return text[0].upper() + text[1:] if text[:1].isascii() else text


def baseline_label(kind: Any) -> str:
    """Readable name of a baseline sampler."""
    return _BASELINES.get(str(kind), str(kind)) if kind else "baseline"


def finite(value: Any) -> float | None:
    """`value` as a float, or None where it is missing, not a number or not finite."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    return float(value) if math.isfinite(value) else None


def uncertain(value: Any, error: Any = None, digits: int = 6) -> str:
    """`0.69781(34)`: two digits of the error in brackets; plain `digits` significant digits without a usable error."""
    number, width = finite(value), finite(error)
    if number is None:
        return "–"
    if width is None or width <= _ROUNDING * abs(number):
        return minus(f"{number:.{digits}g}")
    width = float(f"{width:.1e}")
    places = 1 - math.floor(math.log10(width))
    if places <= 0:
        return minus(f"{number:,.0f}({width:.0f})")
    bracket = f"{width * 10**places:.0f}" if width < 1.0 else f"{width:.{places}f}"
    return minus(f"{number:.{places}f}({bracket})")


def alongside(value: Any, error: Any) -> str:
    """A known number, written with one digit more than an estimate of error `error` resolves."""
    number, width = finite(value), finite(error)
    if number is None:
        return "–"
    if width is None or width <= _ROUNDING * abs(number):
        return uncertain(number)
    return minus(f"{number:.{min(max(2 - math.floor(math.log10(width)), 0), 10)}f}")


def significant(value: Any, digits: int = 3) -> str:
    """`1,240`, `81.3`, `0.00214`: `digits` significant digits, no exponent in the range a reader can take in."""
    number = finite(value)
    if number is None:
        return "–"
    if number == 0.0:
        return "0"
    power = math.floor(math.log10(abs(number)))
    if -5 < power < 9:
        return minus(f"{round(number, digits - 1 - power):,.{max(digits - 1 - power, 0)}f}")
    mantissa, _, exponent = f"{number:.{digits - 1}e}".partition("e")
    return minus(mantissa) + " × 10" + str(int(exponent)).translate(_SUPERSCRIPTS)


def count(value: Any) -> str:
    """`16,384`."""
    number = finite(value)
    return "–" if number is None else f"{round(number):,}"


def percent(value: Any) -> str:
    """`62 %`; one decimal below 10 % and above 99 %."""
    number = finite(value)
    if number is None:
        return "–"
    return f"{100 * number:.0f} %" if 0.1 <= number <= 0.99 or number == 1.0 else f"{100 * number:.1f} %"


def duration(seconds: Any) -> str:
    """`0.42 s`, `12.3 s`, `3 min 12 s`, `1 h 05 min`."""
    number = finite(seconds)
    if number is None:
        return "–"
    if number < 99.95:
        return f"{number:.2f} s" if number < 0.995 else f"{number:.1f} s" if number < 9.95 else f"{number:.0f} s"
    minutes, rest = divmod(round(number), 60)
    if minutes < 100:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min"


def pull(value: Any, error: Any, other: Any, other_error: Any = 0.0) -> float | None:
    """(value - other) in units of the combined error; None where that has no meaning."""
    numbers = [finite(x) for x in (value, error, other, other_error)]
    if any(x is None for x in numbers):
        return None
    a, da, b, db = (float(x) for x in numbers if x is not None)
    width = math.hypot(da, db)
    return (a - b) / width if width > 0 else None


def sigmas(pull: Any) -> str:
    """`+1.2σ`."""
    number = finite(pull)
    return "" if number is None else minus(f"{number:+.1f}σ")


def power_of_ten(exponent: int) -> str:
    """`10⁻³`."""
    return "10" + str(exponent).translate(_SUPERSCRIPTS)


def minus(text: str) -> str:
    """The typographic minus sign, which is as wide as a digit."""
    return text.replace("-", "−")
