"""Labels and rewards, one step at a time, from the equations of arXiv 2410.02511."""

import math


def chains_of(key_states, states, lengths, edge=True):
    """First firings of every episode: Algorithm 2, one episode, state and key state at a time."""
    chains = []
    for env, length in enumerate(lengths):
        chain, done = [], set()
        was_false = set() if edge else set(range(len(key_states)))
        for t in range(int(length) + 1):
            truth = key_states.evaluate(states[t, env])
            for k in range(len(key_states)):
                if not truth[k]:
                    was_false.add(k)
                elif t >= 1 and k in was_false and k not in done:
                    chain.append((t, k))
                    done.add(k)
        chains.append(tuple(chain))
    return chains


def distance(metric, one, other):
    """Between two lists of numbers."""
    if metric == "l1":
        return sum(abs(a - b) for a, b in zip(one, other, strict=True))
    if metric == "l2":
        return math.sqrt(sum((a - b) ** 2 for a, b in zip(one, other, strict=True)))
    if list(one) == list(other):
        return 0.0
    lengths = math.hypot(*one) * math.hypot(*other)
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return 1.0 - product / lengths if lengths else 1.0


def rewards_of(
    episode,
    rewards,
    length,
    success,
    chain,
    subspaces,
    *,
    plan=None,
    allowed=None,
    alpha=10.0,
    beta=0.1,
    metric="l1",
    scale=None,
    discount=1.0,
    hindsight=True,
    success_tail="none",
):
    """Equations 1 and 2 for one episode.

    Args:
        episode: states, one list of numbers per time.
        rewards: of the environment.
        length: steps.
        success: whether it succeeded.
        chain: its firings.
        subspaces: indices per key state.
        plan: key state and state to aim at after the last firing, or None.
        allowed: key states that survived pruning.
        alpha, beta, metric, scale, discount, hindsight, success_tail: of the relabeler.

    Returns:
        Rewards, intrinsic rewards and goals, one of each per step.
    """
    kept = [(t, k) for t, k in chain if allowed is None or k in allowed]
    total, intrinsic, goals = [], [], []
    for t in range(len(rewards)):
        goal, target, indices = -1, None, ()
        if t < length:
            ahead = [(end, k) for end, k in kept if end > t]
            if ahead:
                end, k = ahead[0]
                if hindsight:
                    goal, target, indices = k, episode[end], subspaces[k]
            elif success and success_tail == "hindsight":
                goal, target = len(subspaces), episode[length]
                indices = sorted({index for subspace in subspaces for index in subspace})
            elif not success and plan is not None:
                goal, target = plan
                indices = subspaces[goal]
        gain = 0.0
        if goal >= 0:

            def seen(state, indices=indices):
                weights = [1.0] * len(state) if scale is None else scale
                return [float(state[i]) * weights[i] for i in indices]

            now = distance(metric, seen(episode[t]), seen(target))
            then = distance(metric, seen(episode[t + 1]), seen(target))
            gain = now - discount * then
        total.append(alpha * float(rewards[t]) + beta * gain if t < length else 0.0)
        intrinsic.append(gain)
        goals.append(goal)
    return total, intrinsic, goals
