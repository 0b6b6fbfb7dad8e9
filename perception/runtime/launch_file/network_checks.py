"""Who can reach the graph? The planners' endpoint, the hosts of its processes and the rig's own network."""

from __future__ import annotations

import ipaddress

from perception.runtime.graph import NodeSpec
from perception.runtime.launch_file.wiring import Wiring


class NetworkChecks:
    """Checks of addresses.

    Args:
        wiring: the launch file and what is known of it.
        nodes: the connected nodes.
    """

    def __init__(self, wiring: Wiring, nodes: dict[str, NodeSpec]) -> None:
        self.wiring, self.nodes = wiring, nodes

    def run(self) -> None:
        """Report every fault."""
        self._endpoint()
        self._hosts()

    def _hosts(self) -> None:
        network, hosts = self.wiring.launch.network, {node.host for node in self.nodes.values()}
        by_process: dict[str, str] = {}
        for node in self.nodes.values():
            first = by_process.setdefault(node.process, node.host)
            if first != node.host:
                self.wiring.add(
                    "process-hosts",
                    ("nodes", node.name, "host"),
                    f"process '{node.process}' would run on '{first}' and '{node.host}'",
                    "one host per process",
                )
        if hosts <= {"local"} and network.rig_interface is None:
            return
        path = ("network", "rig_interface")
        address = _address(network.rig_interface)
        if address is None:
            self.wiring.add(
                "rig-interface",
                path,
                f"hosts {', '.join(sorted(hosts))} need the rig's own network, which is not given",
                "network: {rig_interface: ADDRESS}",
            )
        elif not (address.is_private or address.is_link_local):
            self.wiring.add(
                "rig-interface",
                path,
                f"{network.rig_interface} can be reached from anywhere",
                "a private or link-local address",
            )
        for name, given in network.hosts.items():
            address = _address(given)
            if address is None or not (address.is_private or address.is_link_local):
                what = f"host '{name}' is at '{given}', which is no address of the rig's own network"
                expected = "a private or link-local address"
                self.wiring.add("rig-interface", ("network", "hosts", name), what, expected)
        for host in sorted(hosts - {"local"} - set(network.hosts)):
            self.wiring.add(
                "rig-interface", ("network", "hosts"), f"host '{host}' has no address", f"hosts: {{{host}: ADDRESS}}"
            )

    def _endpoint(self) -> None:
        endpoint = self.wiring.launch.endpoint
        scheme, found, rest = endpoint.partition("://")
        host, _, port = rest.rpartition(":")
        if scheme == "ipc" and rest.startswith("/") and len(rest) < 100:
            return
        address = _address("127.0.0.1" if host == "localhost" else host)
        if (
            scheme != "tcp"
            or not found
            or not (port.isdigit() and 0 < int(port) < 65536)
            or (address is None and host != "*")
        ):
            self.wiring.add(
                "endpoint",
                ("endpoint",),
                f"'{endpoint}' is no endpoint",
                "tcp://127.0.0.1:PORT or ipc:///path of less than 100 characters",
            )
        elif (host == "*" or (address is not None and not address.is_loopback)) and not (
            self.wiring.launch.network.curve_keys or self.wiring.launch.network.open_endpoint == endpoint
        ):
            self.wiring.add(
                "endpoint-open",
                ("endpoint",),
                f"'{endpoint}' answers other machines",
                f"127.0.0.1, network: {{curve_keys: FOLDER}}, or network: {{open_endpoint: '{endpoint}'}}",
            )


def _address(text: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address((text or "").strip("[]"))
    except ValueError:
        return None


__all__ = ["NetworkChecks"]
