"""Models on every host of a Dask cluster, and prompts over all of them.

>>> from modeldeck import cluster                                            # doctest: +SKIP
>>> model = cluster.pull(client, "owner/name:Q4_K_M")                        # doctest: +SKIP
"""

from modeldeck.cluster.pull_job import PullJob, pull
from modeldeck.cluster.pulled import HostPull, PulledModel, PullSnapshot

__all__ = ["HostPull", "PullJob", "PullSnapshot", "PulledModel", "pull"]
