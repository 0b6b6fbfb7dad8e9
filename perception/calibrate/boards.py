"""Calibration boards: their points, how they are found in a picture, and how they are printed.

A board is written as one word, lengths in metres:

    chessboard:9x6:0.024               inner corners along x and y, side of a square
    charuco:8x6:0.030:0.022            squares along x and y, side of a square, side of a marker (4x4, 250)
    aprilgrid:6x6:0.088:0.3            tags along x and y, side of a tag, gap between tags over side (as Kalibr)

Board frame: x right, y down seen from the front for chessboard and ChArUco (as OpenCV), x right and y up for AprilGrid
(as Kalibr); z = 0. Needs the extra `camera` (OpenCV 4.10 or later; nothing here differs in 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.errors import NotInstalledError, UserError

if TYPE_CHECKING:
    from types import ModuleType

Float: TypeAlias = NDArray[np.float64]
Grey: TypeAlias = NDArray[np.uint8]
Kind: TypeAlias = Literal["chessboard", "charuco", "aprilgrid"]

FEWEST_CORNERS = 6
_EXPECTED = "chessboard:9x6:0.024, charuco:8x6:0.030:0.022 or aprilgrid:6x6:0.088:0.3 (lengths in metres)"


def opencv() -> ModuleType:
    """Return OpenCV.

    Raises:
        NotInstalledError: it is not there.
    """
    try:
        import cv2
    except ImportError:
        raise NotInstalledError(
            "calibration needs OpenCV: pip install -c constraints.txt 'perception-runtime[camera]'"
        ) from None
    return cv2


@dataclass(frozen=True)
class BoardView:
    """The corners of a board in one picture.

    Attributes:
        name: of the picture.
        t_ns: its stamp; 0 where it has none.
        ids: (N,) which points of the board.
        pixels: (N, 2) column and row.
    """

    name: str
    t_ns: int
    ids: NDArray[np.int64]
    pixels: Float


@dataclass(frozen=True)
class Board:
    """One board.

    Attributes:
        kind: chessboard, charuco or aprilgrid.
        columns: inner corners, squares or tags along x.
        rows: the same along y.
        side_m: of a square, or of a tag.
        second_m: side of a ChArUco marker, or the gap between tags.
    """

    kind: Kind
    columns: int
    rows: int
    side_m: float
    second_m: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Board:
        """Read a board from its word.

        Raises:
            UserError: it is none.
        """
        words = text.split(":")
        try:
            kind = words[0]
            columns, rows = (int(word) for word in words[1].split("x"))
            lengths = [float(word) for word in words[2:]]
        except (ValueError, IndexError):
            raise UserError(f"--board {text}: not a board; expected {_EXPECTED}") from None
        wanted = {"chessboard": 1, "charuco": 2, "aprilgrid": 2}.get(kind)
        if wanted != len(lengths) or min(columns, rows) < 2 or not all(0 < value < 100 for value in lengths):
            raise UserError(f"--board {text}: not a board; expected {_EXPECTED}")
        if kind == "aprilgrid":
            return cls("aprilgrid", columns, rows, lengths[0], lengths[0] * lengths[1])
        if kind == "charuco" and lengths[1] >= lengths[0]:
            raise UserError(f"--board {text}: the marker is not smaller than its square")
        return cls(kind, columns, rows, *lengths)  # type: ignore[arg-type]

    @cached_property
    def points_m(self) -> Float:
        """(P, 3) all points; a view's `ids` are indices into it."""
        if self.kind == "aprilgrid":
            step, side = self.side_m + self.second_m, self.side_m
            corners = np.array([(0, 0), (side, 0), (side, side), (0, side)])
            tags = [(column * step, row * step) for row in range(self.rows) for column in range(self.columns)]
            flat = (np.array(tags)[:, None] + corners).reshape(-1, 2)
        else:
            fewer = 1 if self.kind == "charuco" else 0
            columns, rows = self.columns - fewer, self.rows - fewer
            first = self.side_m if fewer else 0.0  # ChArUco counts from the corner of the board
            flat = np.array([(first + c * self.side_m, first + r * self.side_m) for r in range(rows)
                             for c in range(columns)])  # fmt: skip
        return np.column_stack((flat, np.zeros(len(flat))))

    @property
    def middle_m(self) -> Float:
        """(3,) middle of all points."""
        return np.asarray((self.points_m.min(axis=0) + self.points_m.max(axis=0)) / 2)

    def find(self, grey: Grey, name: str = "", t_ns: int = 0) -> BoardView | None:
        """Find the board in a grey picture (H, W) uint8, to a fraction of a pixel; None if it is not there.

        A chessboard must be whole; of ChArUco and AprilGrid any part does.
        """
        found = {"chessboard": _find_chessboard, "charuco": _find_charuco, "aprilgrid": _find_aprilgrid}[self.kind](
            self, np.ascontiguousarray(grey)
        )
        if found is None or len(found[0]) < FEWEST_CORNERS:
            return None
        return BoardView(name, t_ns, *found)

    def drawn(self, pixels_per_m: float, margin_m: float = 0.0) -> Grey:
        """Return the board as it is printed; the board's origin lies `margin_m` from the upper left (or lower left)."""
        return {"chessboard": _draw_chessboard, "charuco": _draw_charuco, "aprilgrid": _draw_aprilgrid}[self.kind](
            self, pixels_per_m, margin_m
        )


Found: TypeAlias = "tuple[NDArray[np.int64], Float] | None"


def _find_chessboard(board: Board, grey: Grey) -> Found:
    cv2 = opencv()
    size = (board.columns, board.rows)
    flags = cv2.CALIB_CB_ADAPTIVE_THRESH | cv2.CALIB_CB_NORMALIZE_IMAGE | cv2.CALIB_CB_FAST_CHECK
    there, corners = cv2.findChessboardCorners(grey, size, flags=flags)
    if there:
        corners = _refined(grey, corners.reshape(-1, 2).astype(np.float64))
    else:  # slower, and better in blur and at a slant
        there, corners = cv2.findChessboardCornersSB(grey, size, flags=cv2.CALIB_CB_ACCURACY)
        if not there:
            return None
    pixels = np.asarray(corners, np.float64).reshape(-1, 2)
    if _upside_down(board, grey, pixels):
        pixels = pixels[::-1]
    return np.arange(len(pixels)), pixels


def _upside_down(board: Board, grey: Grey, pixels: Float) -> bool:
    """True where the colours say that the corners count from the wrong end.

    Only a board with an odd and an even side tells; another looks the same from both ends.
    """
    if (board.columns + board.rows) % 2 == 0:
        return False
    grid = pixels.reshape(board.rows, board.columns, 2)

    def brightness(row: int, column: int) -> float:
        u, v = np.rint(grid[row : row + 2, column : column + 2].mean(axis=(0, 1))).astype(int)
        return float(grey[max(v - 1, 0) : v + 2, max(u - 1, 0) : u + 2].mean())

    return brightness(0, 0) > brightness(board.rows - 2, board.columns - 2)


def _refined(grey: Grey, corners: Float) -> Float:
    """Move corners to the saddle of grey values, in a window that keeps away from their neighbours."""
    cv2 = opencv()
    apart = np.linalg.norm(corners[:, None] - corners[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    half = int(np.clip(apart.min() / 3, 2, 11))
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_COUNT, 60, 1e-4)
    out = cv2.cornerSubPix(grey, corners.astype(np.float32)[:, None].copy(), (half, half), (-1, -1), criteria)
    return np.asarray(out, np.float64).reshape(-1, 2)


def _charuco(board: Board) -> Any:
    cv2 = opencv()
    words = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_4X4_250)
    return cv2.aruco.CharucoBoard((board.columns, board.rows), board.side_m, board.second_m, words)


def _find_charuco(board: Board, grey: Grey) -> Found:
    cv2 = opencv()
    corners, ids, _, _ = cv2.aruco.CharucoDetector(_charuco(board)).detectBoard(grey)
    if ids is None or len(ids) < FEWEST_CORNERS:
        return None
    pixels = _refined(grey, np.asarray(corners, np.float64).reshape(-1, 2))
    return np.asarray(ids, np.int64).ravel(), pixels


_BORDER_BITS = 2
"""Kalibr's tags have a black border two bits wide, not one as elsewhere."""
_TAG_BITS = 6 + 2 * _BORDER_BITS


def _find_aprilgrid(board: Board, grey: Grey) -> Found:
    """Find tags as they are, and with the black squares that touch them wiped away; then refine their corners."""
    cv2 = opencv()
    settings = cv2.aruco.DetectorParameters()
    settings.markerBorderBits = _BORDER_BITS
    settings.minMarkerPerimeterRate = 0.01
    settings.perspectiveRemovePixelPerCell = 8
    tags = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11)
    detector = cv2.aruco.ArucoDetector(tags, settings)
    best: dict[int, Float] = {}
    for size in (1, 3):
        quads, ids, _ = detector.detectMarkers(cv2.dilate(grey, np.ones((size, size), np.uint8)))
        found = {} if ids is None else {
            int(tag): np.asarray(quad, np.float64).reshape(4, 2) for tag, quad in zip(ids.ravel(), quads, strict=True)
        }  # fmt: skip
        best = {tag: quad for tag, quad in (found | best).items() if tag < board.columns * board.rows}
    if len(best) < 3:
        return None
    ids, pixels = _placed(board, best)
    refined = _refined(grey, pixels)
    kept = np.linalg.norm(refined - pixels, axis=1) < np.maximum(4.0, 0.05 * _side_px(best))
    return ids[kept], refined[kept]


def _side_px(quads: dict[int, Float]) -> float:
    return float(np.median([np.linalg.norm(quad[0] - quad[1]) for quad in quads.values()]))


def _placed(board: Board, quads: dict[int, Float]) -> tuple[NDArray[np.int64], Float]:
    """Name each tag's corners by the layout, whatever corner the dictionary counts from: all tags turn alike."""
    tags = sorted(quads)
    names = np.array([range(4 * tag, 4 * tag + 4) for tag in tags])
    layout = board.points_m[names][..., :2]  # (T, 4, 2), y up
    middles = np.stack([quads[tag].mean(axis=0) for tag in tags])
    affine, *_ = np.linalg.lstsq(np.column_stack((layout.mean(axis=1), np.ones(len(tags)))), middles, rcond=None)
    expected = layout @ affine[:2] + affine[2]
    ways = [(turn, flip) for flip in (1, -1) for turn in range(4)]

    def ordered(quad: Float, way: tuple[int, int]) -> Float:
        return np.roll(quad[:: way[1]], way[0], axis=0)

    def miss(way: tuple[int, int]) -> float:
        apart = [np.linalg.norm((ordered(quads[tag], way) - quads[tag].mean(axis=0))
                                - (place - place.mean(axis=0)), axis=1).sum()
                 for tag, place in zip(tags, expected, strict=True)]  # fmt: skip
        return float(np.sum(apart))

    way = min(ways, key=miss)
    return names.ravel(), np.concatenate([ordered(quads[tag], way) for tag in tags])


def _canvas(width_m: float, height_m: float, scale: float) -> Grey:
    return np.full((round(height_m * scale), round(width_m * scale)), 255, np.uint8)


def _draw_chessboard(board: Board, scale: float, margin_m: float) -> Grey:
    side = board.side_m
    picture = _canvas((board.columns + 1) * side + 2 * margin_m, (board.rows + 1) * side + 2 * margin_m, scale)
    for row in range(board.rows + 1):
        for column in range(board.columns + 1):
            if (row + column) % 2 == 0:
                _fill(picture, margin_m + column * side, margin_m + row * side, side, scale)
    return picture


def _draw_charuco(board: Board, scale: float, margin_m: float) -> Grey:
    width, height = board.columns * board.side_m, board.rows * board.side_m
    picture = _canvas(width + 2 * margin_m, height + 2 * margin_m, scale)
    inner = _charuco(board).generateImage((round(width * scale), round(height * scale)), marginSize=0)
    at = round(margin_m * scale)
    picture[at : at + inner.shape[0], at : at + inner.shape[1]] = inner
    return picture


def _draw_aprilgrid(board: Board, scale: float, margin_m: float) -> Grey:
    cv2 = opencv()
    side, gap = board.side_m, board.second_m
    step = side + gap
    width, height = board.columns * step + gap, board.rows * step + gap
    picture = _canvas(width + 2 * margin_m, height + 2 * margin_m, scale)
    tags = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11)
    pixels = round(side * scale)
    for row in range(board.rows):
        for column in range(board.columns):
            bits = cv2.aruco.generateImageMarker(tags, row * board.columns + column, _TAG_BITS, None, _BORDER_BITS)
            tag = cv2.resize(bits, (pixels, pixels), interpolation=cv2.INTER_NEAREST)
            left = round((margin_m + gap + column * step) * scale)
            top = round((margin_m + gap + (board.rows - 1 - row) * step) * scale)  # rows count from below
            picture[top : top + pixels, left : left + pixels] = tag
    for row in range(board.rows + 1):  # the squares between the tags
        for column in range(board.columns + 1):
            _fill(picture, margin_m + column * step, margin_m + row * step, gap, scale)
    return picture


def _fill(picture: Grey, left_m: float, top_m: float, side_m: float, scale: float) -> None:
    picture[
        round(top_m * scale) : round((top_m + side_m) * scale), round(left_m * scale) : round((left_m + side_m) * scale)
    ] = 0


def origin_in_drawing_m(board: Board, margin_m: float = 0.0) -> tuple[Float, float]:
    """Return where the board's origin lies in its drawing (x, y from the upper left), and the sign of its y axis."""
    if board.kind == "aprilgrid":
        step = board.side_m + board.second_m
        return np.array([margin_m + board.second_m, margin_m + board.rows * step]), -1.0
    side = board.side_m if board.kind == "chessboard" else 0.0
    return np.array([margin_m + side, margin_m + side]), 1.0


__all__ = ["Board", "BoardView", "opencv", "origin_in_drawing_m"]
