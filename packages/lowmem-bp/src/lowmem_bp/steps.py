"""Step tables: the few values that stand in for an activation's derivative, and known good ones."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from lowmem_bp.errors import ConfigError

__all__ = ["PRESETS", "StepTable", "preset"]

_BITS_BY_LEVELS = {2: 1, 4: 2, 16: 4}


@dataclass(frozen=True)
class StepTable:
    """A step function: ``levels[s]`` where ``s`` counts the cuts that are below x.

    A tie ``x == cut`` takes the lower level, and so does NaN (level 0).

    Attributes:
        cuts: where the level changes, sorted, one fewer than levels.
        levels: the values, 2, 4 or 16 of them, from left to right.

    Raises:
        ConfigError: if a number is not finite, cuts are not sorted or the lengths do not fit.

    Example:
        >>> StepTable(cuts=(0.0,), levels=(0.0, 1.0)).bits
        1
    """

    cuts: tuple[float, ...]
    levels: tuple[float, ...]

    def __post_init__(self) -> None:
        for field in ("cuts", "levels"):
            object.__setattr__(self, field, _as_floats(field, getattr(self, field)))
        if len(self.levels) not in _BITS_BY_LEVELS or len(self.cuts) != len(self.levels) - 1:
            raise ConfigError(
                f"{len(self.levels)} levels and {len(self.cuts)} cuts were given; expected 2, 4 or "
                "16 levels (1, 2 or 4 bits) and one cut fewer: drop or add entries."
            )
        if list(self.cuts) != sorted(self.cuts):
            raise ConfigError(
                f"cuts={self.cuts} were given; expected ascending order: sort them, and the "
                "levels with them."
            )

    @property
    def bits(self) -> int:
        """Width of one code: 1, 2 or 4."""
        return _BITS_BY_LEVELS[len(self.levels)]

    def to_dict(self) -> dict[str, list[float]]:
        """Return ``{"cuts": [...], "levels": [...]}``, ready for JSON; floats survive exactly."""
        return {"cuts": list(self.cuts), "levels": list(self.levels)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StepTable:
        """Make a table from what :meth:`to_dict` returned.

        Args:
            data: mapping with the keys ``cuts`` and ``levels`` and no other.

        Returns:
            The table.

        Raises:
            ConfigError: if a key is missing or unknown, or the numbers make no table.
        """
        if set(data) != {"cuts", "levels"}:
            raise ConfigError(
                f"keys {sorted(map(str, data))} were given; expected cuts and levels: pass what "
                "StepTable.to_dict returned."
            )
        return cls(cuts=data["cuts"], levels=data["levels"])


def _as_floats(field: str, values: Any) -> tuple[float, ...]:
    try:
        floats = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        floats = (math.nan,)
    if not all(map(math.isfinite, floats)):
        raise ConfigError(f"{field}={values!r} was given; expected finite numbers: replace it.")
    return floats


#: Known tables by preset, activation and bits. "paper" holds the published ReGELU2 and ReSiLU2
#: constants; the reference uses the erf digits for tanh-GELU too. "grad" holds what
#: ``fit_stepwise(activation, bits=bits).table`` gives, the closest derivative under N(0, 2**2),
#: rounded to 12 decimals; tests/test_fit.py::test_presets_are_what_the_solver_finds repeats it.
#: As constants they cost no solver at import and are the same on every machine.
PRESETS: Mapping[tuple[str, str, int], StepTable] = MappingProxyType(
    {
        ("paper", "gelu", 2): StepTable(
            cuts=(-3.1858810036855245, -0.001178821281161997, 3.190832613414926),
            levels=(0.0, -0.04922261145617846, 1.0487405950855513, 1.0),
        ),
        ("paper", "gelu_tanh", 2): StepTable(
            cuts=(-3.1858810036855245, -0.001178821281161997, 3.190832613414926),
            levels=(0.0, -0.04922261145617846, 1.0487405950855513, 1.0),
        ),
        ("paper", "silu", 2): StepTable(
            cuts=(-6.3050461001646445, -0.0008684942046214787, 6.325815242089708),
            levels=(0.0, -0.04060357190528599, 1.0403218566243821, 1.0),
        ),
        ("grad", "gelu", 1): StepTable(
            cuts=(0.0,),
            levels=(0.020259663177, 0.979740336823),
        ),
        ("grad", "gelu", 2): StepTable(
            cuts=(-0.508065827246, 0.0, 0.508065827246),
            levels=(-0.051588271545, 0.306702166284, 0.693297833716, 1.051588271545),
        ),
        ("grad", "gelu", 4): StepTable(
            cuts=(
                -2.538373947899,
                -1.994929350179,
                -0.952299488752,
                -0.713080206778,
                -0.527345684933,
                -0.366009598054,
                -0.217616180921,
                -0.075827540778,
                0.063818390943,
                0.205262539154,
                0.352880475469,
                0.512767211018,
                0.695693793289,
                0.92798013056,
                2.219529353187,
            ),
            levels=(
                -0.009821202845,
                -0.059828939117,
                -0.111729721348,
                -0.030148613875,
                0.064717131484,
                0.167095536928,
                0.274149086404,
                0.384009547776,
                0.495218819793,
                0.606482467725,
                0.716512260792,
                0.823871718829,
                0.926742493738,
                1.022410706137,
                1.10554584715,
                1.018825946433,
            ),
        ),
        ("grad", "gelu_tanh", 1): StepTable(
            cuts=(0.0,),
            levels=(0.020218840097, 0.979781159903),
        ),
        ("grad", "gelu_tanh", 2): StepTable(
            cuts=(-0.508426901826, 0.0, 0.508426901826),
            levels=(-0.051679524617, 0.306613199886, 0.693386800114, 1.051679524617),
        ),
        ("grad", "gelu_tanh", 4): StepTable(
            cuts=(
                -2.544094466459,
                -2.002238261967,
                -0.95411924674,
                -0.714080159869,
                -0.527922898999,
                -0.366341295927,
                -0.217793687663,
                -0.075896466169,
                0.063843147181,
                0.205392520174,
                0.353156988352,
                0.513274644316,
                0.6965951421,
                0.929629796752,
                2.228248253551,
            ),
            levels=(
                -0.009498339274,
                -0.059872143939,
                -0.111843436822,
                -0.030330528098,
                0.064508567021,
                0.166899414093,
                0.273995575039,
                0.383918867206,
                0.495201287113,
                0.606538662725,
                0.716633051907,
                0.82403815024,
                0.926925787514,
                1.022573326959,
                1.105647923902,
                1.018494246903,
            ),
        ),
        ("grad", "quick_gelu", 1): StepTable(
            cuts=(0.0,),
            levels=(0.023821933662, 0.976178066338),
        ),
        ("grad", "quick_gelu", 2): StepTable(
            cuts=(-0.481047106029, 0.0, 0.481047106029),
            levels=(-0.042615060863, 0.306914267314, 0.693085732686, 1.042615060863),
        ),
        ("grad", "quick_gelu", 4): StepTable(
            cuts=(
                -2.348130774593,
                -0.907574986038,
                -0.682987515727,
                -0.513659643622,
                -0.370020328403,
                -0.24039311846,
                -0.118464846034,
                0.0,
                0.118464846034,
                0.24039311846,
                0.370020328403,
                0.513659643622,
                0.682987515727,
                0.907574986038,
                2.348130774593,
            ),
            levels=(
                -0.023059379725,
                -0.082498265731,
                -0.013536395107,
                0.068078451892,
                0.15747141115,
                0.252033299269,
                0.349952767972,
                0.449777920945,
                0.550222079055,
                0.650047232028,
                0.747966700731,
                0.84252858885,
                0.931921548108,
                1.013536395107,
                1.082498265731,
                1.023059379725,
            ),
        ),
        ("grad", "silu", 1): StepTable(
            cuts=(0.0,),
            levels=(0.071294133539, 0.928705866461),
        ),
        ("grad", "silu", 2): StepTable(
            cuts=(-0.806696228647, 0.0, 0.806696228647),
            levels=(-0.038092662894, 0.311042530312, 0.688957469688, 1.038092662894),
        ),
        ("grad", "silu", 4): StepTable(
            cuts=(
                -3.668106124013,
                -1.581880668751,
                -1.20147387977,
                -0.922584476748,
                -0.689694026708,
                -0.482090505455,
                -0.289070754935,
                -0.103840903312,
                0.078743194858,
                0.263326533921,
                0.454928545183,
                0.660021918918,
                0.888552904237,
                1.159160605464,
                1.518913808131,
            ),
            levels=(
                -0.042174402939,
                -0.086096398806,
                -0.020356061479,
                0.05564965876,
                0.13766579381,
                0.223653589456,
                0.312298608099,
                0.402606621999,
                0.493738791537,
                0.584923104533,
                0.675391573838,
                0.764318858418,
                0.850739233134,
                0.933397550046,
                1.010398614373,
                1.078005422023,
            ),
        ),
        ("grad", "mish", 1): StepTable(
            cuts=(-0.155837435934,),
            levels=(0.045121670974, 0.954453093006),
        ),
        ("grad", "mish", 2): StepTable(
            cuts=(-0.851091504493, -0.186649917466, 0.427799069919),
            levels=(-0.055476066597, 0.288050854133, 0.67205365951, 1.030467680046),
        ),
        ("grad", "mish", 4): StepTable(
            cuts=(
                -3.504085166049,
                -1.496611147849,
                -1.152604620985,
                -0.903414734001,
                -0.697903099046,
                -0.516812082293,
                -0.350146632214,
                -0.191532606149,
                -0.036086039718,
                0.120735033435,
                0.284136763518,
                0.461543465771,
                0.666409707262,
                0.93293729675,
                2.421490246744,
            ),
            levels=(
                -0.047314363797,
                -0.097873684758,
                -0.029270365385,
                0.051188279139,
                0.13899234416,
                0.231872846379,
                0.328286122983,
                0.42699224173,
                0.526874045888,
                0.626828042494,
                0.725669272681,
                0.822010648712,
                0.914052597924,
                0.99909380591,
                1.071845000493,
                1.018492840198,
            ),
        ),
        ("grad", "softplus", 1): StepTable(
            cuts=(0.0,),
            levels=(0.222010342109, 0.777989657891),
        ),
        ("grad", "softplus", 2): StepTable(
            cuts=(-1.168345029519, 0.0, 1.168345029519),
            levels=(0.109042356195, 0.365266160268, 0.634733839732, 0.890957643805),
        ),
        ("grad", "softplus", 4): StepTable(
            cuts=(
                -2.796093774709,
                -2.043117378453,
                -1.551199031697,
                -1.167097323425,
                -0.839746729271,
                -0.544894275976,
                -0.26829907683,
                0.0,
                0.268299076829,
                0.544894275976,
                0.839746729271,
                1.167097323425,
                1.551199031697,
                2.043117378453,
                2.796093774708,
            ),
            levels=(
                0.029751520336,
                0.085319732302,
                0.144179630492,
                0.205646685904,
                0.269113428904,
                0.334062827939,
                0.400036742517,
                0.466612690986,
                0.533387309014,
                0.599963257483,
                0.665937172061,
                0.730886571096,
                0.794353314096,
                0.855820369508,
                0.914680267698,
                0.970248479664,
            ),
        ),
        ("grad", "relu", 1): StepTable(
            cuts=(0.0,),
            levels=(0.0, 1.0),
        ),
    }
)


def preset(activation: str, name: str = "grad", bits: int = 2) -> StepTable:
    """Return a known step table.

    Args:
        activation: name of the activation, such as ``"gelu"``.
        name: ``"paper"`` (published ReGELU2 and ReSiLU2, 2 bits) or ``"grad"`` (closest
            derivative under N(0, 2**2), with a 2 to 4 times smaller error than "paper").
        bits: 1, 2 or 4.

    Returns:
        The table.

    Raises:
        ConfigError: if there is none for this combination; the message lists near matches.

    Example:
        >>> preset("relu", bits=1)
        StepTable(cuts=(0.0,), levels=(0.0, 1.0))
    """
    key = (name, activation, bits)
    if key not in PRESETS:
        known = {f"preset({a!r}, {n!r}, bits={b})": (n, a, b) for n, a, b in PRESETS}
        given = f"preset({activation!r}, {name!r}, bits={bits!r})"
        near = difflib.get_close_matches(given, known, n=3, cutoff=0.0)
        raise ConfigError(
            f"{given} was asked for; expected a known combination, such as {', '.join(near)}: "
            "choose one, or make your own table with fit_stepwise."
        )
    return PRESETS[key]
