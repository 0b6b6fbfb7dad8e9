"""Ray's own processes on one host of a rig: on loopback, at ports that the rig knows.

As a program it is the Ray node of a host that joined: python -m perception.runtime.ray_node, with its settings on the
first line of stdin. It ends with its parent.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import Any

LOOPBACK = "127.0.0.1"
RAY_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on every system: without it Ray's ports answer on all interfaces
}
"""Settings of Ray on every host; the token is added to them."""
OBJECT_STORE_BYTES = 80 << 20
MOST_CPUS = 8
"""Ray starts a process for each CPU that it is told of."""


def start_node(*, place: str, folder: str, ports: Any, gcs_port: int, head: bool) -> Any:
    """Start Ray's processes on this host and return them; `stop_node` ends them.

    Args:
        place: the name of the resource by which processes are placed here.
        folder: where Ray keeps its files.
        ports: the `RayPorts` of this host.
        gcs_port: port of the cluster's directory, mirrored on this host.
        head: True on the launch host.
    """
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    agents = list(ports.agents)
    parameters = RayParams(
        num_cpus=min(os.cpu_count() or 1, MOST_CPUS), object_store_memory=OBJECT_STORE_BYTES, node_ip_address=LOOPBACK,
        node_manager_port=agents[0], object_manager_port=agents[1], runtime_env_agent_port=agents[2],
        metrics_export_port=agents[3], metrics_agent_port=agents[4], dashboard_agent_listen_port=agents[5],
        worker_port_list=",".join(map(str, ports.workers)), include_dashboard=False, include_log_monitor=False,
        temp_dir=folder, resources={place: 1000}, gcs_address=None if head else f"{LOOPBACK}:{gcs_port}",
        gcs_server_port=gcs_port if head else None,
    )  # fmt: skip
    return Node(parameters, head=head, shutdown_at_exit=False, spawn_reaper=False)


def stop_node(node: Any) -> None:
    """End Ray's processes on this host."""
    node.kill_all_processes(check_alive=False, allow_graceful=False)


def main() -> None:
    """Be the Ray node of a host that joined."""
    parent, end = os.getppid(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end.set())
    settings = json.loads(sys.stdin.readline())

    from perception.runtime.rig_link import RayPorts

    ports = RayPorts(settings["first_port"])
    node = start_node(
        place=settings["place"], folder=settings["folder"], ports=ports, gcs_port=settings["gcs_port"], head=False
    )
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while not end.wait(0.2) and os.getppid() == parent:
        pass
    stop_node(node)


if __name__ == "__main__":
    main()
