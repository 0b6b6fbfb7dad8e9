"""`perception evaluate`: a graph on a recorded log, or result files without a graph."""

from __future__ import annotations

import typer
import typer.core

from perception.cli.evaluate_graph import compare, graph
from perception.cli.evaluate_results import detection, pose, recognition, segmentation
from perception.cli.evaluate_tracking import tracking


class _GraphByDefault(typer.core.TyperGroup):
    """`perception evaluate car.yaml ...` is `perception evaluate graph car.yaml ...`."""

    def parse_args(self, ctx, args):  # type: ignore[no-untyped-def]  # click's own, which typer carries inside
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args.insert(0, "graph")
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_GraphByDefault, add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def evaluate() -> None:
    """Score a graph on a recorded log (perception evaluate car.yaml --replay LOG), or result files against truth."""


for command in (graph, compare, detection, tracking, segmentation, pose, recognition):
    app.command()(command)
