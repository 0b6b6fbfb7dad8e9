"""`perception host`."""

from __future__ import annotations

from typing import Annotated

import typer


def host(
    name: Annotated[str, typer.Argument(help="This host's name in the launch file's `network: hosts`.")],
    launch_host: Annotated[str, typer.Option(help="Address of the launch host on the rig's own network.")],
    port: Annotated[int, typer.Option(min=1024, max=60_000, help="The launch file's `network: port`.")] = 6390,
) -> None:
    """Be a host of a rig, for example: perception host rear --launch-host 192.168.7.1.

    Runs until Ctrl-C and joins each launch that places nodes on this host. Needs the rig's token, which the first
    launch over several hosts makes on the launch host: copy it here, mode 600.
    """
    from perception.cli.launch import stopped_by_signals
    from perception.runtime.rig_host import HostSettings, serve_host

    with stopped_by_signals() as stop:
        serve_host(HostSettings(name, launch_host, port), lambda line: print(line, flush=True), stop.is_set)
