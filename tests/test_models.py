from __future__ import annotations

import shutil

import pytest

from dsd.errors import UserError
from dsd.models import EMBEDDED, embedded_folder, resolve, revision_of


def test_hub_ids_and_folders_pass_unchanged(tmp_path):
    assert resolve("black-forest-labs/FLUX.1-dev") == "black-forest-labs/FLUX.1-dev"
    assert resolve(str(tmp_path)) == str(tmp_path)


def test_an_unknown_embedded_name_gets_a_hint():
    with pytest.raises(UserError, match='did you mean "tiny-flux"'):
        resolve("embedded:tiny-fluxx")


def test_missing_weights_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr("dsd.models._WEIGHTS", tmp_path)
    with pytest.raises(UserError, match="dsd world train"):
        resolve("embedded:tiny-flux")


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_models_are_installed_as_safetensors_only(name):
    folder = embedded_folder(name)
    assert resolve(f"embedded:{name}") == str(folder)
    assert list(folder.rglob("*.safetensors"))
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt")]


def test_the_embedded_models_fit_the_package():
    sizes = [path.stat().st_size for name in EMBEDDED for path in embedded_folder(name).rglob("*") if path.is_file()]
    assert sum(sizes) <= 32 * 2**20


def test_the_revision_is_of_the_content_and_not_of_the_place(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "w.safetensors").write_bytes(b"weights")
    shutil.copy(__file__, tmp_path / "b" / "README.md")
    assert revision_of(tmp_path / "a") == revision_of(tmp_path / "b")
    (tmp_path / "b" / "sub" / "w.safetensors").write_bytes(b"other")
    assert revision_of(tmp_path / "a") != revision_of(tmp_path / "b")


def test_a_missing_folder_has_no_revision(tmp_path):
    with pytest.raises(UserError, match="no model folder"):
        revision_of(tmp_path / "none")
