"""How a run shows itself: a live table in a terminal, plain lines otherwise, and a summary at the end."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import Group

    from perception.messages import GraphState, NodeStatus
    from perception.runtime.launcher import Summary

LINE_EVERY_S = 5.0


class View(Protocol):
    """Where a run's progress is shown."""

    def line(self, text: str) -> None: ...
    def status(self, summary: Summary) -> None: ...
    def close(self) -> None: ...


def view(plain: bool) -> View:
    """Return a live table where there is a terminal and it is wanted, else plain lines."""
    return PlainLines() if plain or not sys.stdout.isatty() else LiveTable()


class PlainLines:
    """A line when something happens, and one every five seconds."""

    def __init__(self) -> None:
        self._next_s = 0.0
        self._state = ""

    def line(self, text: str) -> None:
        print(text, flush=True)

    def status(self, summary: Summary) -> None:
        state = summary.last_state
        if state is None:
            return
        now_s = time.monotonic()
        if state.state == self._state and now_s < self._next_s:
            return
        self._state, self._next_s = state.state, now_s + LINE_EVERY_S
        print(state_line(state, summary), flush=True)

    def close(self) -> None:
        pass


class LiveTable:
    """A table that is drawn anew four times a second."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console()
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        self._live.start()
        self._lock = threading.Lock()

    def line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)

    def status(self, summary: Summary) -> None:
        with self._lock:
            state = summary.last_state
            title, states = ("", {}) if state is None else (state_line(state, summary), state.nodes)
            self._live.update(status_screen(list(summary.statuses.values()), title, states))

    def close(self) -> None:
        self._live.stop()


def state_line(state: GraphState, summary: Summary) -> str:
    """Return the graph's state, why, and what was published so far."""
    counts = ", ".join(f"{topic} {count}" for topic, count in sorted(summary.outputs.items()))
    reasons = f" ({'; '.join(state.reasons)})" if state.reasons else ""
    return f"{state.state}{reasons} | {counts or 'nothing published yet'}"


def status_screen(
    statuses: list[NodeStatus],
    title: str,
    states: Mapping[str, str],
    rates_hz: Callable[[str], float] | None = None,
) -> Group:
    """Return a table of nodes: state, messages, latency, age, drops, memory; and below it what they say.

    A node that is lost cannot say so itself: `states`, the graph's own, go before.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(expand=False, box=None, padding=(0, 1, 0, 0))
    rate = ["Hz"] if rates_hz else []
    for column in ("node", "state", "sent", *rate, "p50 ms", "p99 ms", "age ms", "drops", "MB"):
        left = column in ("node", "state")
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    for status in statuses:
        cells = [status.node, states.get(status.node, status.state), str(sum(status.published.values()))]
        if rates_hz:
            cells.append(f"{rates_hz(status.node):.1f}")
        cells += [
            f"{status.latency_p50_ms:.1f}", f"{status.latency_p99_ms:.1f}",
            "" if status.age_ms is None else f"{status.age_ms:.0f}", str(dropped(status)),
            f"{status.memory_mb:.0f}",
        ]  # fmt: skip
        table.add_row(*cells)
    return Group(Text(title, style="bold"), table, Text("\n".join(said(statuses))))


def said(statuses: Sequence[NodeStatus]) -> list[str]:
    """Return what nodes say, a line for each text: many say the same."""
    nodes: dict[str, list[str]] = {}
    for status in statuses:
        for text in (*([status.last_error] if status.last_error else []), *status.degraded, *status.notes):
            nodes.setdefault(text, []).append(status.node)
    return [f"{', '.join(names)}: {text}" for text, names in nodes.items()]


def dropped(status: NodeStatus) -> int:
    """Return the messages that a node did not use, of all inputs and reasons."""
    return sum(sum(counts.dropped.values()) for counts in status.inputs)


def summary_lines(summary: Summary) -> list[str]:
    """Return what a run gave, a line each."""
    lines = [f"ran {summary.seconds:.1f} s"]
    lines += [f"  {topic:<28} {count:>7} messages" for topic, count in sorted(summary.outputs.items())]
    for status in summary.statuses.values():
        lost = {
            f"{counts.topic} {reason}": count
            for counts in status.inputs
            for reason, count in counts.dropped.items()
            if count
        }
        said = [f"p50 {status.latency_p50_ms:.1f} ms, p99 {status.latency_p99_ms:.1f} ms"] if status.inputs else []
        said += [f"dropped {count} ({what})" for what, count in lost.items()]
        said += [f"last error: {status.last_error}"] if status.last_error else []
        said += [*status.degraded, *status.notes]
        lines.append(f"  node {status.node}: {'; '.join(said) or 'ok'}")
    lines.append(f"  lost processes: {', '.join(summary.lost_processes) or 'none'}; restarts: {summary.restarts}")
    if summary.missed:
        missed = ", ".join(f"{count} of {topic}" for topic, count in sorted(summary.missed.items()))
        lines.append(f"  not published and not recorded, since the launcher was busy: {missed}")
    for process, links in summary.links.items():
        crossed = [f"{link.topic} {'sent' if link.sent else 'received'} {link.sent or link.received}" for link in links]
        lines.append(f"  between hosts, process {process}: {', '.join(crossed)}")
    if summary.recording:
        lines.append(f"  recorded to {summary.recording}; records dropped on the way: {summary.recording_dropped}")
    lines += [f"  FAILED: required output '{topic}' had no message" for topic in summary.missing_outputs]
    return lines


def summary_document(summary: Summary) -> dict[str, Any]:
    """Return the summary for a script."""
    import msgspec

    return {
        "seconds": round(summary.seconds, 3), "outputs": dict(summary.outputs),
        "nodes": {name: msgspec.to_builtins(status) for name, status in summary.statuses.items()},
        "links": {process: msgspec.to_builtins(links) for process, links in summary.links.items()},
        "lost_processes": summary.lost_processes, "restarts": summary.restarts,
        "missed": dict(summary.missed),
        "missing_outputs": summary.missing_outputs, "recording": summary.recording,
        "recording_dropped": summary.recording_dropped,
        "state": None if summary.last_state is None else summary.last_state.state,
    }  # fmt: skip


__all__ = ["LiveTable", "PlainLines", "View", "dropped", "said", "state_line", "status_screen", "summary_document",
           "summary_lines", "view"]  # fmt: skip
