"""A page for the browser of a comparison in onnxruntime, which the command does not make."""

from __future__ import annotations

import html
from typing import Any

from ._checks import short

_STYLE = (
    ":root { color-scheme: light dark } body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem } "
    "td, th { padding: .2rem .8rem; text-align: right } td:first-child, th:first-child { text-align: left }"
)
_COLUMNS = [
    ("snr dB", "snr_db"),
    ("nmse", "nmse"),
    ("max abs", "max_abs"),
    ("cosine", "cosine"),
    ("agree", "agreement"),
    ("kl", "kl"),
]


def comparison(report: dict[str, Any]) -> str:
    """The page: sizes, the figures of each output, checks that failed, and warnings."""
    model, verdict = report["model"], report["verify"]
    title = f"{model['output']} against {model['path']}"
    heads = "".join(f"<th>{head}</th>" for head in ["output", *(name for name, _ in _COLUMNS)])
    rows = "".join(_row(figures) for figures in verdict["outputs"])
    lines = [f"{model['bytes_before']:,} bytes before, {model['bytes_after']:,} after"]
    lines.append(f"verified end to end in onnxruntime on {verdict['samples']} samples: {'passed' if verdict['passed'] else 'failed'}")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>dirnet: {html.escape(title)}</title><style>{_STYLE}</style></head><body><h1>{html.escape(title)}</h1>"
        f"{_paragraphs(lines)}<table><tr>{heads}</tr>{rows}</table>"
        f"{_list('Failed', verdict['failures'])}{_list('Warnings', report['warnings'])}</body></html>\n"
    )


def _row(figures: dict[str, Any]) -> str:
    cells = ["-" if figures[key] is None else short(figures[key]) for _, key in _COLUMNS]
    return f"<tr><td>{html.escape(figures['name'])}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _paragraphs(lines: list[str]) -> str:
    return "".join(f"<p>{html.escape(line)}</p>" for line in lines)


def _list(title: str, lines: list[str]) -> str:
    if not lines:
        return ""
    return f"<h2>{title}</h2><ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>"
