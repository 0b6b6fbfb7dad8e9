"""What is made of a checked graph has run once before the first message comes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from perception.errors import GraphError
from perception.runtime.node import Source
from perception.runtime.node_factory import make_node
from tests.runtime.graphs import graph, spec


class Warmed(Source):
    warm = False

    def warm_up(self) -> None:
        self.warm = True


class Cold(Source):
    def warm_up(self) -> None:
        raise RuntimeError("no compiler")


def test_a_source_is_warmed_up_like_every_other_node() -> None:
    node = replace(spec("drive", source=True), target=f"{__name__}:Warmed")
    made = make_node(node, graph([node], {}))
    assert isinstance(made, Warmed)
    assert made.warm


def test_a_warm_up_that_fails_names_its_node() -> None:
    node = replace(spec("drive", source=True), target=f"{__name__}:Cold")
    with pytest.raises(GraphError, match="node 'drive' cannot be made: RuntimeError: no compiler"):
        make_node(node, graph([node], {}))
