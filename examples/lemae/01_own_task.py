"""How do I use key states on a task of my own? Describe it, write them, check them, train, look.

Both agents have to get to the right end of their corridors. Needs: pip install "lemae[report]"
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from lemae import StateEntry, TaskSpec, check, report, training
from lemae.probes import probes

LENGTH = 17
SPEC = TaskSpec(
    name="corridors",
    description="Two agents start at the left ends of two corridors; both have to reach the right "
    "end. An agent can move only while the other one stands on an even cell.",
    configuration=f"Each corridor has the cells 0 to {LENGTH - 1}.",
    state=(StateEntry("agent 0 x", 0, LENGTH - 1), StateEntry("agent 1 x", 0, LENGTH - 1)),
    n_agents=2,
    actions=("left", "right"),
    episode_limit=100,
)
KEY_STATES = f"""
def is_both_a_third_of_the_way(state):
    \"\"\"Both agents have gone a third of their corridors.\"\"\"
    return min(state[0], state[1]) >= {LENGTH // 3}

def is_both_two_thirds_of_the_way(state):
    \"\"\"Both agents have gone two thirds of their corridors.\"\"\"
    return min(state[0], state[1]) >= {2 * LENGTH // 3}
"""


class Corridors:
    """All copies at once; what it has is what lemae asks of an environment."""

    n_agents, n_actions, d, episode_limit, task_spec = 2, 2, 2, SPEC.episode_limit, SPEC
    n_values = (LENGTH, LENGTH)  # of each index: the networks read them one-hot

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs

    def reset(self, *, seed=None):  # noqa: D102  says what it does
        self.cells, self.t = np.zeros((self.num_envs, 2), np.float32), 0
        return self.cells.copy(), {}

    def step(self, actions):  # noqa: D102
        over = (self.cells == LENGTH - 1).all(1)
        can = (self.cells[:, ::-1] % 2 == 0) & ~over[:, None]
        self.cells = np.clip(self.cells + (2 * actions - 1) * can, 0, LENGTH - 1)
        self.cells, self.t = self.cells.astype(np.float32), self.t + 1
        won = (self.cells == LENGTH - 1).all(1)
        late = np.full(self.num_envs, self.t >= self.episode_limit) & ~won
        return self.cells.copy(), (won & ~over).astype(float), won, late, {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=80_000)
    parser.add_argument("--smoke", action="store_true", help="seconds: does it run here?")
    options = parser.parse_args()
    found = check(KEY_STATES, SPEC, probes(Corridors(8), 64 if options.smoke else 2048))
    print(found)  # with every reason; lemae.generate would have a model write and repair them
    out = Path(tempfile.mkdtemp())
    found.key_states.save(out / "key-states")
    steps = 2000 if options.smoke else options.steps
    for method in ("lemae", "plain"):
        task = {"key_states": str(out / "key-states"), "sticky": 4.0}
        settings = training.Settings(f"{__name__}:Corridors", method, "ippo", steps, **task)
        run = training.train(settings, out / method)
        print(method, "first success:", run["first_success_step"], "wins:", run["win_rate_sampled"])
        print("episodes that met each key state:", run["hits"])
    print("report:", report.write(out))


if __name__ == "__main__":
    main()
