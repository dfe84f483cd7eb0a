"""Ray: the workers of :mod:`lemae.integrations.workers` on the machines of a cluster.

Needs the extra ``ray``: ``pip install "lemae[ray]"``. (Seeds over a cluster: ``lemae train --engine
ray``.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lemae.errors import ConfigError, MissingExtraError
from lemae.integrations.workers import Rollout, Worker, worker_seed
from lemae.ksmt import Memory

try:
    import ray
except ImportError as error:
    raise MissingExtraError(
        'lemae.integrations.ray needs ray: pip install "lemae[ray]"; '
        "lemae.integrations.workers.ProcessWorkers does without, on one machine"
    ) from error

if TYPE_CHECKING:
    from typing_extensions import Self

#: How often a rollout is repeated elsewhere when its worker is lost.
RETRIES = 3


class RayWorkers:
    """Workers that are actors of Ray, with the interface of ``ProcessWorkers``.

    Joins the cluster that Ray is connected to, or starts one on this machine and ends it in the
    end. A worker that is lost with its machine is started anew, and its rollout repeated: the same
    one, since a rollout depends on what is sent alone.

    Args:
        count: how many.
        *args: of :class:`~lemae.integrations.workers.Worker`; functions of any kind.
        num_cpus: cores per worker.
        **kwargs: of :class:`~lemae.integrations.workers.Worker`.

    Raises:
        ConfigError: if there is no worker.
    """

    def __init__(self, count: int, *args: Any, num_cpus: float = 1, **kwargs: Any) -> None:
        if count < 1:
            raise ConfigError(f"count is {count}: give the number of workers, at least 1")
        self._started = not ray.is_initialized()
        if self._started:
            ray.init(include_dashboard=False)
        remote = ray.remote(Worker).options(
            num_cpus=num_cpus, max_restarts=RETRIES, max_task_retries=RETRIES
        )
        self._actors = [remote.remote(*args, **kwargs) for _ in range(count)]

    def collect(
        self, weights: Any, memory: Memory, seed: int, step: int | None = None
    ) -> list[Rollout]:
        """A rollout of every worker, in their order.

        Args:
            weights: of the policy.
            memory: to explore by.
            seed: from which each worker gets one of its own.
            step: environment steps so far.

        Raises:
            ray.exceptions.RayError: if a worker raised, or is lost too often.
        """
        weights, text = ray.put(weights), ray.put(memory.to_json())
        found: list[Rollout] = ray.get(
            [
                actor.collect.remote(weights, text, worker_seed(seed, index), step)
                for index, actor in enumerate(self._actors)
            ]
        )
        return found

    def close(self) -> None:
        """End the workers, and the cluster if it was started for them."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
        if self._started:
            ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
