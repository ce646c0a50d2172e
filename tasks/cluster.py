"""Who trains together: workers on this machine, those that params.yaml names, or those of TF_CONFIG, as Kubernetes sets it."""

import json
import os
import socket
from contextlib import ExitStack
from dataclasses import dataclass

from tasks.core.errors import ParamsError
from tasks.params import Compute

TF_CONFIG = "TF_CONFIG"


@dataclass(frozen=True)
class Cluster:
    """How many workers there are, which of them this machine runs, and the address of each; none: free ports of this machine."""

    size: int
    local: tuple[int, ...]
    addresses: tuple[str, ...]

    def config(self, addresses: tuple[str, ...], worker: int) -> str:
        """The worker's TF_CONFIG."""
        return json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": worker}})

    def now(self) -> tuple[str, ...]:
        """The addresses to use for one start of the workers."""
        return self.addresses or free_addresses(self.size)


def find_cluster(compute: Compute) -> Cluster | None:
    """The cluster to train in, None for this process on its own; ParamsError when this machine has no part in it."""
    if text := os.environ.get(TF_CONFIG):
        return _from_environment(text)
    if compute.hosts:
        local = tuple(i for i, address in enumerate(compute.hosts) if _is_here(address))
        if not local:
            raise ParamsError(
                f"compute.hosts {list(compute.hosts)} name no address of this machine; name it as the others reach it, "
                "or set TF_CONFIG"
            )
        return Cluster(len(compute.hosts), local, compute.hosts)
    return Cluster(compute.workers, tuple(range(compute.workers)), ()) if compute.workers > 1 else None


def _from_environment(text: str) -> Cluster | None:
    try:
        config = json.loads(text)
        chiefs, workers = config["cluster"].get("chief", []), config["cluster"].get("worker", [])
        kind, index = config["task"]["type"], int(config["task"]["index"])
        place = {"chief": 0, "worker": len(chiefs)}[kind] + index
        addresses = tuple(map(str, [*chiefs, *workers]))
        if not 0 <= place < len(addresses):
            raise ValueError(f"no {kind} {index} among {len(addresses)} addresses")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ParamsError(
            f'TF_CONFIG names no worker ({error}); expected {{"cluster": {{"worker": ["host:port", ...]}}, '
            f'"task": {{"type": "worker", "index": 0}}}}, or unset it'
        ) from error
    return Cluster(len(addresses), (place,), addresses) if len(addresses) > 1 else None


def _is_here(address: str) -> bool:
    """Whether the host is this machine: only its own addresses can be listened on."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
        family, kind, protocol, _, place = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(place)
    except OSError:
        return False
    return True


def free_addresses(count: int) -> tuple[str, ...]:
    """Different free ports of the loopback."""
    with ExitStack() as open_ones:
        probes = [open_ones.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return tuple(f"127.0.0.1:{probe.getsockname()[1]}" for probe in probes)
