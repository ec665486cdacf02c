"""Models on every host of a Dask cluster, and prompts over all of them.

>>> from modeldeck import cluster                                            # doctest: +SKIP
>>> model = cluster.pull(client, "owner/name:Q4_K_M")                        # doctest: +SKIP
>>> with cluster.Fleet(client, "owner/name:Q4_K_M") as fleet:                # doctest: +SKIP
...     texts = fleet.map(prompts, max_tokens=64, seed=7)
"""

from modeldeck.cluster.fleet import Fleet, FleetMember, map
from modeldeck.cluster.map_job import MapJob, MapProgress
from modeldeck.cluster.pull_job import PullJob, pull
from modeldeck.cluster.pulled import HostPull, PulledModel, PullSnapshot

__all__ = [
    "Fleet",
    "FleetMember",
    "HostPull",
    "MapJob",
    "MapProgress",
    "PullJob",
    "PullSnapshot",
    "PulledModel",
    "map",
    "pull",
]
