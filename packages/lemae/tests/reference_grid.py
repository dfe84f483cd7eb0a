"""The grid tasks once more: one copy, plain Python, rule by rule as they are written down.

Slow and without any of the package's code or tables: walls are asked for cell by cell.
"""

import math

UP, DOWN, LEFT, RIGHT = range(4)
STEP = {UP: (0, -1), DOWN: (0, 1), LEFT: (-1, 0), RIGHT: (1, 0)}


class Reference:
    """One copy of a task. ``start`` makes it begin in a given state."""

    limit = 300

    def __init__(self, n_agents=2):
        self.n = n_agents

    def begin(self, state=None):
        state = list(self.start_state()) if state is None else [int(value) for value in state]
        self.agents = [list(state[2 * i : 2 * i + 2]) for i in range(self.n)]
        self.rest = state[2 * self.n :]
        self.steps = 0
        self.prepare()

    def prepare(self):
        pass

    def step(self, actions):
        self.move(actions)
        self.steps += 1
        success = self.success()
        state = [number for agent in self.agents for number in agent] + list(self.rest)
        return state, float(success), success, self.steps >= self.limit and not success

    def walk(self, agent, action):
        x, y = agent[0] + STEP[action][0], agent[1] + STEP[action][1]
        if 0 <= x < self.size and 0 <= y < self.size and not self.blocked(x, y):
            agent[:] = [x, y]


class Doors(Reference):
    def prepare(self):
        self.touched = [False] * len(self.switches)
        if self.rest != [0]:  # in the single-agent tasks an open door tells what was touched
            self.touched[self.codes.index(self.rest[0])] = True

    def move(self, actions):
        for agent, action in zip(self.agents, actions, strict=True):
            self.walk(agent, action)
        code = 0
        for i, (x, y) in enumerate(self.switches):
            near = any(math.hypot(a[0] - x, a[1] - y) <= self.radius for a in self.agents)
            if self.n == 1:
                self.touched[i] = self.touched[i] or near
                near = self.touched[i]
            if near:
                code = self.codes[i]
                break
        self.rest = [code]


class Pass(Doors):
    codes = (1, 1)

    def __init__(self, n_agents=2, size=30):
        super().__init__(n_agents)
        self.size, self.q = size, size // 10
        self.switches = [(self.q, int(0.8 * size)), (int(0.8 * size), self.q)]
        self.radius = 1.5 * self.q

    def start_state(self):
        q = self.q
        return [*[1 + q, 1 + q, q, q][: 2 * self.n], 0]

    def blocked(self, x, y):
        if x != self.size // 2:
            return False
        doorway = self.size // 2 - self.q <= y <= self.size // 2 + self.q
        return not (doorway and self.rest[0] == 1)

    def success(self):
        return all(x >= self.size / 2 + 1 for x, _ in self.agents)


class SecretRoom(Doors):
    size, radius = 25, 1.5
    switches = ((5, 20), (20, 4), (20, 12), (20, 20))
    codes = (7, 4, 2, 1)

    def __init__(self, n_agents=2, target_room=1, compat="cmae"):
        super().__init__(n_agents)
        self.target, self.compat = target_room, compat

    def start_state(self):
        return [*[3, 3, 2, 2][: 2 * self.n], 0]

    def blocked(self, x, y):
        if x == 12:
            if 3 <= y <= 5:
                return not self.rest[0] & 4
            if 11 <= y <= 13:
                return not self.rest[0] & 2
            if 19 <= y <= 21:
                return not self.rest[0] & 1
            return True
        return x > 12 and y in (8, 16)

    def success(self):
        if self.compat == "cmae":
            return all(x >= 14 and y <= 9 for x, y in self.agents)
        low, high = {1: (0, 7), 2: (9, 15), 3: (17, 24)}[self.target]
        return all(x >= 13 and low <= y <= high for x, y in self.agents)


class PushBox(Reference):
    size = 15

    def start_state(self):
        return [*[11, 11, 9, 9][: 2 * self.n], 7, 7]

    def blocked(self, x, y):
        return abs(x - self.rest[0]) <= 1 and abs(y - self.rest[1]) <= 1

    def pushes(self, agent, action):
        """Orthogonally next to the side from which the action leads into the box."""
        bx, by = self.rest
        x, y = agent
        return {
            UP: y == by + 2 and bx - 1 <= x <= bx + 1,
            DOWN: y == by - 2 and bx - 1 <= x <= bx + 1,
            LEFT: x == bx + 2 and by - 1 <= y <= by + 1,
            RIGHT: x == bx - 2 and by - 1 <= y <= by + 1,
        }[action]

    def move(self, actions):
        for direction in STEP:
            force = sum(
                action == direction and self.pushes(agent, action)
                for agent, action in zip(self.agents, actions, strict=True)
            )
            if force >= self.n:
                self.rest = [self.rest[0] + STEP[direction][0], self.rest[1] + STEP[direction][1]]
                break
        for agent, action in zip(self.agents, actions, strict=True):
            self.walk(agent, action)

    def success(self):
        return any(centre in (1, 13) for centre in self.rest)


class River(Reference):
    size = 30

    def blocked(self, x, y):
        return x <= 14 and y >= 16

    def move(self, actions):
        alice, bob = self.agents
        x, y = alice[0] + STEP[actions[0]][0], alice[1] + STEP[actions[0]][1]
        helped = (x == 15 and bob[0] == 15) or (y == 15 and bob[1] == 15)
        if helped or (x != 15 and y != 15):
            self.walk(alice, actions[0])
        self.walk(bob, actions[1])

    def success(self):
        return all(x >= 16 and y >= 16 for x, y in self.agents)


def reference(name, **options):
    """The reference of a task, by the names that ``lemae.envs.make`` takes."""
    single = name.endswith("-single")
    n_agents, name = (1, name.removesuffix("-single")) if single else (2, name)
    if name == "large-pass":
        name, options = "pass", {**options, "size": 50}
    kind = {"pass": Pass, "secret-room": SecretRoom, "push-box": PushBox, "river": River}[name]
    return kind(n_agents, **options)
