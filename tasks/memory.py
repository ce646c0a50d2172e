"""How much memory a process may still take: what the machine, its container and its own limits leave."""

import resource
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
# Where the second and the first version of cgroups tell the limit of a group, below the path of the process' own one.
LIMITS = (("", "memory.max"), ("memory", "memory.limit_in_bytes"))


def free_memory() -> int:
    """Bytes that this process can take without a swap, a refusal or its end."""
    own = psutil.Process().memory_info()
    left = [psutil.virtual_memory().available]
    left += [limit - own.rss for limit in _cgroup_limits()]
    for kind, taken in ((resource.RLIMIT_AS, own.vms), (resource.RLIMIT_DATA, getattr(own, "data", own.rss))):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            left.append(soft - taken)
    return max(min(left), 0)


def _cgroup_limits() -> list[int]:
    """The limits of the groups that this process is in, as their own container sees them or the whole machine."""
    record = Path("/proc/self/cgroup")
    paths = [line.split(":", 2) for line in record.read_text().splitlines()] if record.exists() else []
    limits = []
    for controller, name in LIMITS:
        for group in {"/", *(path for _, kinds, path in paths if kinds == controller)}:
            file = CGROUPS / controller / group.lstrip("/") / name
            text = file.read_text().strip() if file.exists() else "max"
            if text != "max":
                limits.append(int(text))
    return limits
