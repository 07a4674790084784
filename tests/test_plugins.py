"""The product and its guest: what the drawn world adds is found, and nothing of it is loaded or named before."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from dsd.cli.main import VERBS
from dsd.models import embedded_folder
from dsd.plugins import added, folder_of, summary_of

PRODUCT = Path(__file__).parents[1] / "src" / "dsd"


@pytest.mark.parametrize("line", ["import dsd", "from dsd.cli.main import main; assert main(['--help']) == 0"])
def test_neither_torch_nor_the_world_is_loaded_for_help(line: str) -> None:
    code = f"{line}\nimport sys\nassert not {{'torch', 'dsd_world'}} & sys.modules.keys(), 'loaded'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if "--help" in line:
        assert "demo      run the whole loop" in done.stdout and "world     draw the embedded world" in done.stdout


def test_what_is_added_can_be_loaded_and_shadows_nothing() -> None:
    verbs = added("verbs")
    assert set(verbs) == {"demo", "world"} and not set(verbs) & set(VERBS)
    for point in verbs.values():
        assert {"variants", "plan", "run"} <= set(dir(point.load()))
        assert summary_of(point)
    assert {name: embedded_folder(name) for name in added("models")} == {
        name: folder_of(point) / name for name, point in added("models").items()
    }


def test_no_name_of_the_world_stands_in_the_product() -> None:
    found = [
        f"{path.relative_to(PRODUCT)}:{number}: {line.strip()}"
        for path in sorted(PRODUCT.rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if re.search(r"dsd_world|\bworld\b|tiny-", line, re.IGNORECASE)
    ]
    assert not found, "\n".join(found)


def test_no_family_is_named_above_the_families() -> None:
    found = [
        f"{path.relative_to(PRODUCT)}:{number}: {line.strip()}"
        for path in sorted(PRODUCT.rglob("*.py"))
        if path.relative_to(PRODUCT).parts[0] not in ("backbones", "recipes")
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if re.search(r"flux|sd3|stable.?diffusion.?3|qwen", line, re.IGNORECASE)
    ]
    assert not found, "\n".join(found)
