"""What README says is what the last run measured."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_results_are_those_of_the_committed_report() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- results -->\n(.*?)<!-- /results -->", readme, re.S)
    assert shown is not None
    # As committed: a run on another kind of processor, or with other params, gives other numbers.
    command = ["git", "show", "HEAD:reports/summary.md"]
    table = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n\n")[0]
    assert shown[1].strip() == table.strip()


def test_every_linked_file_exists() -> None:
    for file in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#]+)", file.read_text(encoding="utf-8")):
            assert link.startswith("http") or (file.parent / link).exists(), f"{file.name}: {link}"
