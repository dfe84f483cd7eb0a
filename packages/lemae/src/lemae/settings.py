"""What a training run is: one field per choice, and the published values by task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lemae._suggest import suggest
from lemae._values import real, whole
from lemae.errors import ConfigError
from lemae.explore import RuleName

Algorithm = Literal["ippo", "qmix", "vdn", "iql", "cmae"]
Exploration = Literal["ksmt", "constant", "off"]
MemoryKind = Literal["tree", "chain", "dag"]
RandomActionTreatment = Literal["mask", "mixture", "ignore"]

#: Methods that need nothing from :mod:`lemae.baselines`.
OWN_METHODS = ("lemae", "plain")
#: Methods with key states.
GUIDED_METHODS = ("lemae", "discriminator")


@dataclass(frozen=True)
class Choices:
    """What depends on task, method and learner unless it is chosen; see :class:`Settings`.

    Attributes:
        alpha: weight of the environment's reward.
        beta: weight of the intrinsic reward.
        eps_low: share of random actions where the policy acts.
        eps_high: share of random actions where the team explores.
        memory: kind of memory.
        explore: who says how random actions are.
    """

    alpha: float = 10.0
    beta: float = 0.1
    eps_low: float = 0.0
    eps_high: float = 1.0
    memory: MemoryKind = "tree"
    explore: Exploration = "ksmt"


# arXiv 2410.02511, hyper-parameters. River, the tasks for one agent and SMACv2 are not in its
# table; theirs are ours. SMAX has scenarios of SMAC.
_BATTLE = Choices(beta=1.0, eps_high=0.5)
_PUBLISHED = {
    "push-box": Choices(beta=0.05, eps_high=0.2),
    "smax-5m_vs_6m": replace(_BATTLE, alpha=1.0, memory="chain"),
    "smax-3s5z_vs_3s6z": replace(_BATTLE, alpha=1.0, memory="chain"),
}


@dataclass(frozen=True)
class Settings:
    """One run.

    ``alpha``, ``beta``, ``eps_high`` and ``memory`` are the published ones of the task if they are
    None, or those of the nearest task that has any; ``eps_high`` is 1 for methods without a memory.

    Attributes:
        task: a grid task of :func:`lemae.envs.names`, ``smax-`` and a scenario of SMAX, or
            ``package.module:function``, which is called with the number of copies and the options.
        method: ``"lemae"``; ``"plain"``, without key states; or a baseline of
            :func:`lemae.baselines.names`.
        algo: the learner: ``"ippo"``, ``"qmix"``, ``"vdn"``, ``"iql"``, or the baseline ``"cmae"``,
            which explores in its own way.
        steps: environment steps, rounded up to whole rollouts.
        seed: of everything but the evaluation.
        num_envs: copies of the task, played side by side; a rollout is an episode in each.
        options: of the task.
        key_states: file or folder of key states; None takes those shipped for what the agents are
            told of the task, see :func:`lemae.key_states.shipped_for`.
        on_failure: without usable key states train the ``"base"`` algorithm, with a warning and a
            flag in the results, or ``"raise"``.
        reduce: share of the key states that is left out.
        distract: share of key states that are added and mean nothing.
        alpha: weight of the environment's reward, with every method.
        beta: weight of the intrinsic reward, also of ``"her"``.
        shir: reward the way to key states that were met.
        planning: reward the way to the key state that should come next.
        subspace: distances in the coordinates that a key state reads (``"key"``) or in all
            (``"full"``).
        relabeling: further options of :class:`lemae.ShirRelabeler`. Where the state holds numbers
            that are not whole, ``scale`` is one over the range of each unless it is given.
        memory: ``"tree"``, ``"chain"`` or ``"dag"``.
        explore: who says how random actions are. ``"ksmt"``, the memory (LEMAE only).
            ``"constant"``, ``eps_high`` until ``explore_until`` and ``eps_low`` after it.
            ``"off"``, nobody: IPPO draws from its policy, the learners of values follow a schedule
            of their own. None: ``"ksmt"`` for LEMAE; for other methods ``"constant"`` if ``sticky``
            is set, since there would be no random actions to keep, else ``"off"``.
        explore_until: successes in training after which exploration ends and the memory is pruned;
            1 is the published rule. Those of a rollout count when it is over, but for the one that
            completes the number.
        rule: of :class:`lemae.KsmtExplorer`, at a node with children.
        eps_low: share of random actions where the policy acts; None: 0.05 for the learners of
            values, 0 for the others.
        eps_high: share of random actions where the team explores.
        sticky: mean number of steps for which a random action is kept; None draws at every step.
            An aid, not published.
        requery_after: ask a language model for further key states after so many training episodes
            in a row without a new node of the memory and without success; None never asks. Not
            published.
        max_requery: how often it is asked at most.
        self_imitation: weight of imitating the latest successful episodes while the recent win rate
            is below 0.9. An aid for IPPO, not published.
        count_bonus: weight of a bonus for rare states until the first success. An aid, not
            published.
        random_actions: what IPPO makes of random actions: ``"mask"``, ``"mixture"``, ``"ignore"``;
            see :class:`lemae.algos.IPPOSettings`.
        evaluate_every: environment steps between evaluations, rounded up to whole rollouts; the
            last rollout is always followed by one.
        evaluation_episodes: each sampled and greedy; a task of another module plays ``num_envs``
            at a time, and as many more as fill the last of these.
        stop_at: end the run once so large a share of the last 100 training episodes succeeded, and
            of 100 more played by the policy as it then is; None uses all steps.
        learner: further options of :class:`lemae.algos.IPPOSettings`,
            :class:`lemae.algos.QSettings` or :class:`lemae.baselines.CMAESettings`.
        baseline: options of the baseline.
        device: of the networks; IPPO acts on the CPU whichever it is.

    Raises:
        ConfigError: if a choice is unknown, a number outside its range, or an option has no effect
            with the method or the learner.
    """

    task: str
    method: str = "lemae"
    algo: Algorithm = "ippo"
    steps: int = 300_000
    seed: int = 0
    num_envs: int = 8
    options: dict[str, Any] = field(default_factory=dict)
    key_states: str | None = None
    on_failure: Literal["base", "raise"] = "base"
    reduce: float = 0.0
    distract: float = 0.0
    alpha: float | None = None
    beta: float | None = None
    shir: bool = True
    planning: bool = True
    subspace: Literal["key", "full"] = "key"
    relabeling: dict[str, Any] = field(default_factory=dict)
    memory: MemoryKind | None = None
    explore: Exploration | None = None
    explore_until: int = 1
    rule: RuleName = "degree"
    eps_low: float | None = None
    eps_high: float | None = None
    sticky: float | None = None
    requery_after: int | None = None
    max_requery: int = 1
    self_imitation: float = 0.0
    count_bonus: float = 0.0
    random_actions: RandomActionTreatment = "mask"
    evaluate_every: int = 50_000
    evaluation_episodes: int = 100
    stop_at: float | None = None
    learner: dict[str, Any] = field(default_factory=dict)
    baseline: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"

    def __post_init__(self) -> None:
        self._check_values()
        self._check_method()
        self._check_algo()

    def _check_values(self) -> None:
        for name, known in (
            ("algo", get_args(Algorithm)),
            ("on_failure", ("base", "raise")),
            ("subspace", ("key", "full")),
            ("memory", (*get_args(MemoryKind), None)),
            ("explore", (*get_args(Exploration), None)),
            ("rule", get_args(RuleName)),
            ("random_actions", get_args(RandomActionTreatment)),
        ):
            check_choice(name, getattr(self, name), known)
        whole("seed", self.seed, lowest=0)
        for name in (
            *("steps", "num_envs", "evaluate_every", "evaluation_episodes"),
            *("explore_until", "max_requery"),
        ):
            whole(name, getattr(self, name))
        if self.requery_after is not None:
            whole("requery_after", self.requery_after)
        for name in ("distract", "self_imitation", "count_bonus"):
            real(name, getattr(self, name))
        if not real("reduce", self.reduce) < 1:
            raise ConfigError(f"reduce is {self.reduce}: give a share from 0 to less than 1")
        if self.sticky is not None:
            real("sticky", self.sticky, 1)
        if self.stop_at is not None:
            real("stop_at", self.stop_at, 0, 1, above=True)
        if self.max_requery > 1 and self.requery_after is None:
            raise ConfigError(
                f"max_requery is {self.max_requery} and requery_after None, which never asks: give "
                "both or neither"
            )
        choices = self.choices
        real("alpha", choices.alpha, above=True)
        real("beta", choices.beta)
        if not 0 <= choices.eps_low <= choices.eps_high <= 1:
            raise ConfigError(
                f"eps_low is {choices.eps_low} and eps_high {choices.eps_high}: give "
                "0 <= eps_low <= eps_high <= 1"
            )

    def _check_method(self) -> None:
        """Refuse options of key states where there are none."""
        if self.explore == "ksmt" and self.method != "lemae":
            raise ConfigError(
                f'explore is "ksmt", which needs the key states of LEMAE, and method is '
                f'{self.method!r}: give "constant" or "off"'
            )
        usual = asdict(self._usual_choices)
        for methods, options in (
            (GUIDED_METHODS, _OF_KEY_STATES),
            (("lemae",), _OF_LEMAE),
            (("lemae", "her"), _OF_DISTANCES),
        ):
            if self.method in methods:
                continue
            for name, default in options.items():
                given = getattr(self, name)
                if given != default and given != usual.get(name):
                    raise ConfigError(
                        f"{name} is {given!r}, which is for {' and '.join(methods)}, and method is "
                        f"{self.method!r}: leave it out"
                    )

    def _check_algo(self) -> None:
        """Refuse options that the learner does not follow."""
        if self.self_imitation and self.algo != "ippo":
            raise ConfigError(
                f"self_imitation is for ippo, and algo is {self.algo!r}, which replays successful "
                "episodes anyway: give 0"
            )
        if self.random_actions != "mask" and self.algo != "ippo":
            raise ConfigError(
                f"random_actions is {self.random_actions!r}, which is for ippo, and algo is "
                f"{self.algo!r}: leave it out"
            )
        if self.random_actions == "mixture" and self.sticky is not None:
            raise ConfigError(
                f'random_actions is "mixture" and sticky {self.sticky}: the probability of an '
                'action that is kept is not that of the mixture. Give "mask", or no sticky'
            )
        if self.algo == "cmae":
            if self.method != "plain":
                raise ConfigError(
                    f"algo is 'cmae', a method of its own, and method is {self.method!r}: give "
                    '"plain"'
                )
            aids = {"sticky": None, "count_bonus": 0, "explore": None}
            for name, default in aids.items():
                if (given := getattr(self, name)) not in (default, "off"):
                    raise ConfigError(
                        f"{name} is {given!r}, and algo is 'cmae', which explores in its own way: "
                        "leave it out"
                    )

    def without_key_states(self) -> Settings:
        """The run of the base algorithm that takes the place of one without usable key states."""
        explore = None if self.explore == "ksmt" else self.explore
        return replace(
            self, method="plain", explore=explore, **_OF_KEY_STATES, **_OF_LEMAE, **_OF_DISTANCES
        )

    @property
    def choices(self) -> Choices:
        """The values that are in force where these settings may say None."""
        own = {name: getattr(self, name) for name in Choices.__dataclass_fields__}
        chosen = {name: value for name, value in own.items() if value is not None}
        return replace(self._usual_choices, **chosen)

    @property
    def _usual_choices(self) -> Choices:
        task = _PUBLISHED.get(self.task, _BATTLE if self.task.startswith("smax-") else Choices())
        without: Exploration = "off" if self.sticky is None else "constant"
        if self.method != "lemae":
            # Published for a team that is led by a memory: without one it is how long it searches.
            task = replace(task, eps_high=Choices.eps_high)
        return replace(
            task,
            eps_low=0.0 if self.algo in ("ippo", "cmae") else 0.05,
            explore="ksmt" if self.method == "lemae" else without,
        )

    def as_dict(self) -> dict[str, Any]:
        """All fields, with the :attr:`choices` in force, in the types of JSON."""
        return {**asdict(self), **asdict(self.choices)}


#: Options with an effect on :data:`GUIDED_METHODS` alone, on LEMAE alone, and on what is paid for
#: getting nearer alone, with their defaults.
_OF_KEY_STATES: dict[str, Any] = {"reduce": 0.0, "distract": 0.0}
_OF_LEMAE: dict[str, Any] = {
    "shir": True,
    "planning": True,
    "subspace": "key",
    "relabeling": {},
    "memory": None,
    "rule": "degree",
    "requery_after": None,
    "max_requery": 1,
}
_OF_DISTANCES: dict[str, Any] = {"beta": None}


def check_fields(given: Mapping[str, Any], kind: Any = Settings, what: str = "a setting") -> None:
    """Refuse names that are no fields of :class:`Settings`, and values of another type.

    Args:
        given: values by name.
        kind: a dataclass whose fields are meant instead.
        what: a field is called.

    Raises:
        ConfigError: with near matches of a name, or the type.
    """
    types = get_type_hints(kind)
    for name, value in given.items():
        check_choice(f"the name of {what}", name, [one.name for one in fields(kind)])
        if not _is_of(value, types[name]):
            shown = getattr(types[name], "__name__", str(types[name]))
            raise ConfigError(f"{name} is {value!r}: give {shown}")


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a value in the types of JSON is of an annotated type; a Literal is any text."""
    kind = get_origin(hint)
    if kind in (Union, UnionType):
        return any(_is_of(value, one) for one in get_args(hint))
    if kind is Literal:
        return isinstance(value, str)
    if hint in (int, float):
        return isinstance(value, (int, float) if hint is float else int) and not isinstance(
            value, bool
        )
    return isinstance(value, kind or hint)


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Refuse a value that is none of the choices.

    Raises:
        ConfigError: with near matches.
    """
    known = list(choices)
    if value not in known:
        raise ConfigError(f"{name} is {value!r}: {suggest(value, known)}")
