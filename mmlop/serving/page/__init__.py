"""The page at `/`: one HTML response with style and script in it, and the policy that lets it do no more than it needs."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True)
class Page:
    html: str
    policy: str  # the value of the header Content-Security-Policy


def read() -> Page:
    """The page as it is sent. Its policy lets no other style or script than its own work, and nothing be asked of anyone
    but the service."""
    html, style, script = (_text(name) for name in ("index.html", "page.css", "page.js"))
    policy = {
        "default-src": "'none'",
        "style-src": f"'{_hash(style)}'",
        "script-src": f"'{_hash(script)}'",
        "connect-src": "'self'",
        "img-src": "blob: data:",  # the pictures that are asked about, and the empty icon
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    whole = html.replace("{{ style }}", style).replace("{{ script }}", script)
    return Page(whole, "; ".join(f"{name} {value}" for name, value in policy.items()))


def _text(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """What a content security policy knows an inline style or script by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
