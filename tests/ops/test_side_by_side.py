"""Pieces of work in threads of their own: in order, in the caller's modes, and torch's threads are as they were."""

from __future__ import annotations

import threading

import pytest
import torch

from perception.ops.host_sampling import as_learned, may_round_otherwise
from perception.ops.side_by_side import side_by_side
from tests.threads import threads_of_torch


@pytest.mark.parametrize(
    ("threads", "pieces", "share"), [(1, 3, 1), (2, 6, 1), (2, 1, 2), (4, 6, 1), (4, 3, 2), (3, 2, 3)]
)
def test_the_threads_of_torch_are_shared_out(threads: int, pieces: int, share: int) -> None:
    with torch.inference_mode(), threads_of_torch(threads):
        found = side_by_side(lambda piece: (piece, torch.get_num_threads()), range(pieces))
        assert found == [(piece, share) for piece in range(pieces)]
        assert torch.get_num_threads() == threads
        later: list[int] = []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert later == [threads]


def test_pieces_see_the_modes_of_the_caller() -> None:
    x = torch.randn(3, 4)

    def modes(_: int) -> tuple[bool, bool, torch.dtype, bool]:
        return torch.is_inference_mode_enabled(), torch.is_grad_enabled(), (x @ x.T).dtype, may_round_otherwise(x)

    with threads_of_torch(2):
        with torch.inference_mode():
            assert side_by_side(modes, range(2)) == [(True, False, torch.float32, True)] * 2
            with torch.autocast("cpu", torch.bfloat16):
                assert side_by_side(modes, range(2)) == [(True, False, torch.bfloat16, True)] * 2
        with torch.no_grad(), as_learned():
            assert side_by_side(modes, range(2)) == [(False, False, torch.float32, False)] * 2


def test_where_gradients_are_recorded_one_piece_follows_the_other_in_the_caller() -> None:
    with threads_of_torch(2):
        assert side_by_side(lambda _: threading.get_ident(), range(2)) == [threading.get_ident()] * 2


def test_what_a_piece_raises_is_raised() -> None:
    def work(piece: int) -> int:
        if piece == 1:
            raise ValueError("piece 1")
        return piece

    with torch.inference_mode(), threads_of_torch(2):
        with pytest.raises(ValueError, match="piece 1"):
            side_by_side(work, range(3))
        assert side_by_side(work, [0, 2]) == [0, 2]
