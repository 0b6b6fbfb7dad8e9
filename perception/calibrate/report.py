"""An HTML report in one file: facts, complaints, and pictures as SVG or embedded PNG; opens anywhere, needs nothing."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.errors import UserError

Float: TypeAlias = NDArray[np.float64]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #222 }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em }
td { padding: .1em 1.2em .1em 0; vertical-align: top } td:first-child { color: #666 }
.good { color: #17672d } .poor { color: #a3210f } figure { display: inline-block; margin: .5em 1em .5em 0 }
figcaption { color: #666; font-size: .85em } svg, img { border: 1px solid #ccc; max-width: 100% }
"""


@dataclass
class Report:
    """A report that grows by facts and figures, and is written once.

    Attributes:
        title: its heading.
        facts: lines of the table at the top.
        complaints: what is poor, and what to do.
    """

    title: str
    facts: Mapping[str, str]
    complaints: Sequence[str]
    _body: list[str] = field(default_factory=list)

    def section(self, title: str) -> None:
        """Begin a section."""
        self._body.append(f"<h2>{html.escape(title)}</h2>")

    def figure(self, content: str, caption: str) -> None:
        """Add a figure: SVG or an image element."""
        self._body.append(f"<figure>{content}<figcaption>{html.escape(caption)}</figcaption></figure>")

    def text(self) -> str:
        """Return the whole page."""
        rows = "".join(f"<tr><td>{html.escape(key)}<td>{html.escape(value)}" for key, value in self.facts.items())
        verdict = "<p class=good>Nothing to complain about.</p>" if not self.complaints else (
            "<ul class=poor>" + "".join(f"<li>{html.escape(said)}" for said in self.complaints) + "</ul>"
        )  # fmt: skip
        return (
            f"<!doctype html><meta charset=utf-8><title>{html.escape(self.title)}</title><style>{_STYLE}</style>"
            f"<h1>{html.escape(self.title)}</h1>{verdict}<table>{rows}</table>{''.join(self._body)}\n"
        )

    def write(self, path: Path) -> None:
        """Write the page. Raises UserError where it cannot be."""
        try:
            path.write_text(self.text())
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror}") from None


def coverage_map(cells: NDArray[np.int64], pixels: Float, size_px: tuple[int, int]) -> str:
    """Draw the picture's cells, darker with more corners, and every corner as a dot."""
    width, height = size_px
    rows, columns = cells.shape
    most = max(int(cells.max()), 1)
    squares = "".join(
        f"<rect x={column * width / columns:.1f} y={row * height / rows:.1f} width={width / columns:.1f} "
        f'height={height / rows:.1f} fill="#2a7" fill-opacity={0.6 * cells[row, column] / most:.2f} stroke="#ddd"/>'
        for row in range(rows)
        for column in range(columns)
    )
    dots = "".join(f'<circle cx={u:.1f} cy={v:.1f} r={width / 400:.1f} fill="#124"/>' for u, v in pixels)
    return f'<svg viewBox="0 0 {width} {height}" width=480>{squares}{dots}</svg>'


def error_scatter(errors_px: Float, limit_px: float | None = None) -> str:
    """Draw errors (N, 2) as dots around the centre, with circles at a half and the whole of the limit."""
    reach = limit_px or max(float(np.quantile(np.abs(errors_px), 0.995)) * 1.2, 1e-3)
    dots = "".join(
        f'<circle cx={150 + 140 * u / reach:.1f} cy={150 + 140 * v / reach:.1f} r=1.3 fill="#146" fill-opacity=0.5/>'
        for u, v in np.clip(errors_px, -reach, reach)
    )
    rings = "".join(f'<circle cx=150 cy=150 r={radius} fill="none" stroke="#ccc"/>' for radius in (70, 140))
    label = f'<text x=152 y=288 font-size=11 fill="#888">{reach:.2g} px</text>'
    return (
        f'<svg viewBox="0 0 300 300" width=300>{rings}<path d="M150 0V300M0 150H300" stroke="#eee"/>{dots}{label}</svg>'
    )


def bars(values: Mapping[str, float], unit: str) -> str:
    """Draw one bar per name."""
    most, step = max([*values.values(), 1e-12]), 18
    rows = "".join(
        f"<text x=0 y={step * i + 13} font-size=11>{html.escape(name[:24])}</text>"
        f'<rect x=150 y={step * i + 4} width={250 * value / most:.1f} height=11 fill="#58a"/>'
        f"<text x={156 + 250 * value / most:.0f} y={step * i + 13} font-size=11>{value:.3g} {unit}</text>"
        for i, (name, value) in enumerate(values.items())
    )
    return f'<svg viewBox="0 0 480 {step * len(values) + 6}" width=480>{rows}</svg>'


def curve(x: Float, y: Float, mark_x: float | None, unit: str) -> str:
    """Draw a curve, with a line where the answer is."""
    low, high = float(np.min(y)), float(np.max(y))
    px = 10 + 460 * (x - x[0]) / max(float(x[-1] - x[0]), 1e-12)
    py = 190 - 170 * (y - low) / max(high - low, 1e-12)
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(px, py, strict=True))
    mark = ""
    if mark_x is not None:
        at = 10 + 460 * (mark_x - float(x[0])) / max(float(x[-1] - x[0]), 1e-12)
        mark = f'<path d="M{at:.1f} 5V195" stroke="#c40"/>'
    ends = f"<text x=10 y=208 font-size=11>{x[0]:.3g} {unit}</text><text x=410 y=208 font-size=11>{x[-1]:.3g} {unit}</text>"
    return (
        f'<svg viewBox="0 0 480 212" width=480><polyline points="{line}" fill="none" stroke="#146"/>{mark}{ends}</svg>'
    )


def picture(pixels: NDArray[np.uint8], width: int = 420) -> str:
    """Return an image element of a grey (H, W) or RGB (H, W, 3) picture, at most 640 wide inside the file."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels))
    if image.width > 640:
        image = image.resize((640, round(image.height * 640 / image.width)))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img width={width} src="data:image/jpeg;base64,{data}">'


def marked(grey: NDArray[np.uint8], seen_px: Float, expected_px: Float) -> NDArray[np.uint8]:
    """Return an RGB picture with what was seen (green rings) and what the calibration says (red crosses)."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(grey).convert("RGB")
    draw = ImageDraw.Draw(image)
    size = max(2.0, image.width / 220)
    for u, v in seen_px:
        draw.ellipse((u - size, v - size, u + size, v + size), outline=(40, 230, 90))
    for u, v in expected_px:
        draw.line((u - size, v - size, u + size, v + size), fill=(255, 60, 40))
        draw.line((u - size, v + size, u + size, v - size), fill=(255, 60, 40))
    return np.asarray(image, np.uint8)


__all__ = ["Report", "bars", "coverage_map", "curve", "error_scatter", "marked", "picture"]
