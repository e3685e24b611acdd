"""The page of an inspection: one self-contained HTML file."""

from __future__ import annotations

import base64
import html
from pathlib import Path

import numpy as np

from ..utils.errors import UserError
from ..utils.report import PAGE_STYLE
from ..utils.run_dir import write_text_atomically
from .inspection import Inspection, Sample
from .metadata import DatasetMetadata
from .pictures import encode_png

_STYLE = """
.findings li { margin: 4px 0 } .error { color: #c92a2a } .warning { color: #b07400 }
.frames { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 10px }
.frames figure { margin: 0 } .frames figcaption { color: var(--dim); font-size: 12px }
.frames img { image-rendering: pixelated }
.bars { display: grid; grid-template-columns: repeat(auto-fill, minmax(170px, 1fr)); gap: 12px }
.bars svg { width: 100%; height: 56px; display: block } .bars rect { fill: var(--accent) }
.bars span { color: var(--dim); font-size: 12px; display: block }
"""
_MOST_DIMENSIONS = 64


def write_page(inspection: Inspection, path: Path) -> None:
    """Write the page; no text of the dataset reaches it unescaped.

    Raises:
        UserError: It can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, _page(inspection))
    except OSError as error:
        raise UserError(f"'{path}' can't be written ({error.strerror}); name another file with --output.") from None


def _page(inspection: Inspection) -> str:
    metadata = inspection.metadata
    title = metadata.root.resolve().name
    parts = [
        f"<h1>{html.escape(title)}</h1><p class=sub>{html.escape(str(metadata))}</p>",
        _cards(metadata, inspection),
        _findings(inspection),
        _frames(inspection.samples),
        "<h2>Episode lengths</h2><section class=bars>",
        _bars(np.histogram(metadata.episodes.length, bins=30)[0], "frames", _range(metadata.episodes.length)),
        "</section>",
        *(_histograms(inspection, key) for key in inspection.histograms),
        _tasks(metadata),
    ]
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{html.escape(title)}</title><style>{PAGE_STYLE}{_STYLE}</style><main>{''.join(parts)}</main></html>\n"
    )
    return page.encode(errors="replace").decode()


def _cards(metadata: DatasetMetadata, inspection: Inspection) -> str:
    cards = {
        "episodes": f"{len(metadata.episodes):,}",
        "frames": f"{metadata.total_frames:,}",
        "hours": f"{metadata.total_frames / metadata.fps / 3600:.3g}",
        "frames per second": f"{metadata.fps:g}",
        "tasks": f"{len(metadata.tasks):,}",
        "errors": f"{len(inspection.errors)}",
    }
    inside = "".join(f"<div class=card><b>{value}</b><span>{name}</span></div>" for name, value in cards.items())
    return f"<div class=cards>{inside}</div>"


def _findings(inspection: Inspection) -> str:
    if not inspection.findings:
        return "<h2>Findings</h2><section>Nothing is wrong with it.</section>"
    ordered = sorted(inspection.findings, key=lambda finding: finding.severity)
    inside = "".join(
        f"<li><b class={finding.severity}>{finding.severity}</b> {html.escape(finding.text)}</li>"
        for finding in ordered
    )
    return f"<h2>Findings</h2><section><ul class=findings>{inside}</ul></section>"


def _frames(samples: list[Sample]) -> str:
    if not samples:
        return ""
    inside = "".join(_figure(sample) for sample in samples)
    return f"<h2>Frames</h2><section class=frames>{inside}</section>"


def _figure(sample: Sample) -> str:
    step = max(1, max(sample.image.shape[:2]) // 256)
    data = base64.b64encode(encode_png(np.ascontiguousarray(sample.image[::step, ::step]))).decode()
    text = f"{sample.camera}, episode {sample.episode}, frame {sample.frame}: {sample.task}"
    return f"<figure><img src='data:image/png;base64,{data}'><figcaption>{html.escape(text)}</figcaption></figure>"


def _histograms(inspection: Inspection, key: str) -> str:
    entry, counts = inspection.statistics[key], inspection.histograms[key]
    names = inspection.metadata.features[key].names
    labels = names if isinstance(names, list) and len(names) == len(counts) else range(len(counts))
    inside = "".join(
        _bars(row, str(label), f"{low:.4g} to {high:.4g}")
        for row, label, low, high in list(zip(counts, labels, entry.min, entry.max, strict=True))[:_MOST_DIMENSIONS]
    )
    return f"<h2>{html.escape(key)}</h2><section class=bars>{inside}</section>"


def _bars(counts: np.ndarray, label: str, caption: str) -> str:
    heights = 100.0 * counts / max(1, int(counts.max()))
    rects = "".join(
        f"<rect x={number} y={100 - height:.1f} width=0.9 height={height:.1f} />"
        for number, height in enumerate(heights)
    )
    drawing = f"<svg viewBox='0 0 {len(counts)} 100' preserveAspectRatio=none>{rects}</svg>"
    return f"<div><b>{html.escape(label)}</b>{drawing}<span>{html.escape(caption)}</span></div>"


def _range(values: np.ndarray) -> str:
    return f"{values.min():,} to {values.max():,}"


def _tasks(metadata: DatasetMetadata) -> str:
    counts: dict[str, int] = {}
    for texts in metadata.episodes.tasks:
        for text in texts:
            counts[text] = counts.get(text, 0) + 1
    rows = "".join(
        f"<tr><td>{html.escape(text)}</td><td class=n>{count:,}</td></tr>"
        for text, count in sorted(counts.items(), key=lambda pair: -pair[1])[:200]
    )
    head = "<tr><th>instruction</th><th class=n>episodes</th></tr>"
    return f"<h2>Tasks</h2><section><table>{head}{rows}</table></section>"
