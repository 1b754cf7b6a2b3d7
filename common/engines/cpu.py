"""How many processors this process may really use, and how many threads an engine gets.

`os.cpu_count` tells the machine's processors. A container or a worker may have fewer: by affinity
(``taskset``, ``--cpuset-cpus``) or by a quota of processor time (``--cpus``, Kubernetes limits),
which no count shows. An engine with more threads than that spins against itself.
"""

from __future__ import annotations

import os
from pathlib import Path


def usable_cpus(root: Path = Path("/"), affinity: int | None = None) -> float:
    """Processors that this process may use: the smaller of its affinity and its cgroups' quotas.

    Args:
        root: Where ``proc`` and ``sys`` are, for tests.
        affinity: Processors of the affinity mask; None asks the system.
    """
    if affinity is None:
        affinity = _count_affinity()
    quotas = [*_quotas_v2(root), *_quotas_v1(root)]
    return min([float(affinity), *quotas])


def default_threads(engines: int = 1, usable: float | None = None) -> int:
    """Threads for each of an instance's engines: the usable processors less one, shared fairly.

    One stays free for the gateway: the engines' threads spin, and throughput falls tenfold when
    there are as many of them as processors and anything else runs.

    Args:
        engines: How many engines run at the same time.
        usable: Processors to share; None measures them.
    """
    free = (usable_cpus() if usable is None else usable) - 1
    return max(1, int(free // max(1, engines)))


def _count_affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas_v2(root: Path) -> list[float]:
    """Quotas of cgroup v2, our group's and its ancestors': ``cpu.max`` is ``QUOTA PERIOD``."""
    quotas = []
    for group in _groups(root, "", root / "sys/fs/cgroup"):
        fields = _read(group / "cpu.max").split()
        if len(fields) == 2 and fields[0] != "max":
            quotas.append(int(fields[0]) / int(fields[1]))
    return quotas


def _quotas_v1(root: Path) -> list[float]:
    """Quotas of cgroup v1, mounted as ``cpu`` or ``cpu,cpuacct``; -1 is none."""
    quotas = []
    for mount in ("cpu", "cpu,cpuacct"):
        for group in _groups(root, "cpu", root / "sys/fs/cgroup" / mount):
            quota = _read(group / "cpu.cfs_quota_us")
            period = _read(group / "cpu.cfs_period_us")
            if quota and period and int(quota) > 0:
                quotas.append(int(quota) / int(period))
    return quotas


def _groups(root: Path, controller: str, mount: Path) -> list[Path]:
    """Directories of our cgroup and its ancestors below `mount`.

    In a container the path of ``/proc/self/cgroup`` may be the host's, which is not mounted here;
    then the mount's top is our own group.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller not in controllers.split(","):
            continue
        group = mount / path.lstrip("/")
        chain = [group, *group.parents]
        return [each for each in chain if each == mount or mount in each.parents]
    return [mount]


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
