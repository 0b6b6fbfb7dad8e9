"""Ask a running graph at its snapshot socket: for its last records, its files, or to do something with its replay."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
import zmq

from perception.errors import ChannelError, UserError
from perception.runtime.curve_keys import ClientKeys, client_keys
from perception.runtime.publisher import FILES, REPLAY, snapshot_of
from perception.runtime.replay_request import ReplayAnswer, ReplayRequest

THERE_S, BUSY_S = 5.0, 60.0
"""A graph that runs says how it stands at once; it forgets what it holds when each node's call has ended."""


def asked(
    context: zmq.Context[zmq.Socket[bytes]],
    endpoint: str,
    request: Sequence[bytes],
    keys: ClientKeys | None,
    timeout_s: float,
) -> list[bytes]:
    """Send a request to the snapshot socket of an endpoint and return the frames of the answer.

    Raises:
        UserError: the endpoint cannot be one.
        ChannelError: no answer within the time.
    """
    asking = context.socket(zmq.DEALER)
    try:
        asking.setsockopt(zmq.LINGER, 0)
        if keys is not None:
            asking.curve_serverkey = keys.publisher
            asking.curve_publickey, asking.curve_secretkey = keys.public, keys.secret
        try:
            asking.connect(snapshot_of(endpoint))
        except zmq.ZMQError as error:
            raise UserError(
                f"'{endpoint}' is no endpoint ({error.strerror}); expected ipc:///path or tcp://host:port"
            ) from None
        asking.send_multipart(request)
        if not asking.poll(round(timeout_s * 1000)):
            from perception.runtime.run_lock import is_it_running  # psutil, which nobody who is answered needs

            silent = f"no answer from {snapshot_of(endpoint)} within {timeout_s:g} s"
            raise ChannelError(f"{silent}; {is_it_running(endpoint)}")
        return asking.recv_multipart()
    finally:
        asking.close()


def ask_replay(
    endpoint: str, request: ReplayRequest, *, keys: Path | None = None, timeout_s: float = THERE_S
) -> ReplayAnswer:
    """Ask a running replay to pause, step, seek or change its pace, and return how it stands then.

    Args:
        endpoint: of the graph; `perception launch` prints it.
        request: what is asked.
        keys: folder with this client's CURVE keys, for a publisher that asks for them.
        timeout_s: how long to wait for a graph to be there.

    Raises:
        UserError: the endpoint cannot be one, the keys cannot be read, or the graph says why it does not do it.
        ChannelError: no answer within the time.
    """
    context = zmq.Context()
    try:
        client = None if keys is None else client_keys(keys)
        ask = partial(asked, context, endpoint, keys=client)
        frames = ask(request=[REPLAY, msgspec.json.encode(ReplayRequest("status"))], timeout_s=timeout_s)
        if request.action != "status":
            frames = ask(request=[REPLAY, msgspec.json.encode(request)], timeout_s=BUSY_S)
    finally:
        context.term()
    try:
        answer = msgspec.json.decode(frames[-1], type=ReplayAnswer)
    except msgspec.MsgspecError as error:
        raise ChannelError(f"what answers at {snapshot_of(endpoint)} is no graph of this version: {error}") from None
    if answer.error:
        raise UserError(answer.error)
    return answer


def ask_files(endpoint: str, *, keys: Path | None = None, timeout_s: float = THERE_S) -> dict[str, bytes]:
    """Return what a recording of a running graph holds beside its messages: launch file, calibration, cards, hashes.

    Empty where the graph gives them to nobody: its endpoint is open to other machines without CURVE keys.

    Raises:
        UserError: the endpoint cannot be one, or the keys cannot be read.
        ChannelError: no answer within the time, or one of another version.
    """
    context = zmq.Context()
    try:
        frames = asked(context, endpoint, [FILES, b""], None if keys is None else client_keys(keys), timeout_s)
    finally:
        context.term()
    if frames[0] != FILES or len(frames) % 2 == 0:
        raise ChannelError(f"what answers at {snapshot_of(endpoint)} is no graph of this version")
    return {name.decode(): data for name, data in zip(frames[1::2], frames[2::2], strict=True)}


__all__ = ["ask_files", "ask_replay", "asked"]
