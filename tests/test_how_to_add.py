"""What CONTRIBUTING says of adding a family, a task, a recipe, a method and a metric, carried out once."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import curation_parts as parts
import pytest
import tiny
import torch
from chat_server import chat_server
from PIL import Image, ImageOps, ImageStat
from swap_task import SWAP
from training_parts import simple_pairs, small_config

from dsd.backbones import registry as families
from dsd.backbones.adapter import load_metadata
from dsd.backbones.flux import layers, pipeline
from dsd.backbones.flux.backbone import FluxBackbone
from dsd.baselines import registry as methods
from dsd.baselines.copy import CopyReference
from dsd.cli.main import main
from dsd.curate.pipeline import curate
from dsd.curate.tasks import registry as tasks
from dsd.data.store import DatasetReader
from dsd.errors import UserError
from dsd.evaluate.metrics import registry as metrics
from dsd.evaluate.metrics.protocol import Bench, Measure, Metric
from dsd.generate.text_to_image import TextToImage
from dsd.generate.two_frame import TwoFramePipeline, pipeline_class
from dsd.plugins import added
from dsd.recipes import registry as recipes
from dsd.train.trainer import train


def test_a_family_is_a_folder_and_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class MyBackbone(FluxBackbone):
        family = "mine"

    folder, backbone = ModuleType("dsd.backbones.mine"), ModuleType("dsd.backbones.mine.backbone")
    folder.__path__ = []
    backbone.BACKBONE = MyBackbone  # pyright: ignore[reportAttributeAccessIssue]
    for name, module in {"": folder, ".backbone": backbone, ".layers": layers, ".pipeline": pipeline}.items():
        monkeypatch.setitem(sys.modules, f"dsd.backbones.mine{name}", module)
    monkeypatch.setitem(families.FAMILIES, "mine", ("MyPipeline",))
    base = tmp_path / "model"
    shutil.copytree(tiny.schnell(), base)
    index = json.loads((base / "model_index.json").read_text())
    (base / "model_index.json").write_text(json.dumps({**index, "_class_name": "MyPipeline"}))

    assert families.family_of(str(base)) == "mine"
    assert TextToImage.load(str(base)).backbone.family == "mine"
    adapter = train(small_config(base=str(base), steps=1, sample_every=9), simple_pairs(), tmp_path / "run")
    assert load_metadata(adapter).family == "mine"
    pipe = TwoFramePipeline.from_pretrained(str(base), adapter=adapter)
    assert isinstance(pipe, pipeline_class("mine"))
    assert pipe("a cat", tiny.picture(), num_inference_steps=1).images[0].size == (32, 32)
    with pytest.raises(Exception, match='for models of the family "mine" yet'):
        families.part_of("mine", "controlnet")


def test_a_task_is_a_file_and_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(tasks.TASKS, "swap", "swap_task:SWAP")
    data, captions = tmp_path / "dataset", parts.write_captions(tmp_path / "captions.parquet")
    with chat_server() as server:
        chat = f"openai:test@{server.url}"
        config = parts.config(captions, chat, task="swap", templates="plain", units=2)
        funnel = curate(config, data)
        asked = Counter(body["response_format"]["json_schema"]["name"] for body in server.requests)
    assert asked == {"TwoScenes": 6, "PanelDescription": 12}
    assert (funnel.sheets, funnel.candidates, funnel.kept, funnel.pairs) == (6, 12, 12, 12)
    reader = DatasetReader(data)
    assert reader.manifest.recipe["task"] == "swap" and len(reader) == 12
    for pair in reader.pairs():
        assert pair.target == ImageOps.mirror(pair.reference) != pair.reference
    assert {sheet.grid.image.size for sheet in reader.sheets() if sheet.grid} == {(2 * parts.PANEL, parts.PANEL)}
    adapter = train(small_config(steps=2, sample_every=9), data, tmp_path / "run")
    pipe = TwoFramePipeline.from_pretrained(tiny.schnell(), adapter=adapter)
    assert pipe("a cat, mirrored", tiny.picture(), num_inference_steps=1).images[0].size == (parts.PANEL, parts.PANEL)

    assert main(["curate", "tiny", "--curate.task", "swap", "--dry-run"]) == 0
    assert "for the task swap" in capsys.readouterr().err
    assert main(["curate", "tiny", "--curate.task", "swop", "--dry-run"]) == 2
    assert 'there is no task "swop"; did you mean "swap"?' in capsys.readouterr().err
    with pytest.raises(UserError, match="themes are 4 scenes, but a sheet has 2"):
        replace(config, themes=("a", "b", "c", "d"))
    with pytest.raises(UserError, match="at most 2 frames"):
        replace(config, references=2)


def test_another_package_adds_a_task_by_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "mine-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[dsd.tasks]\nmirrored = swap_task:SWAP\n")
    monkeypatch.syspath_prepend(tmp_path)
    added.cache_clear()
    try:
        assert tasks.task_of("mirrored") is SWAP
    finally:
        added.cache_clear()


def test_a_recipe_is_a_function_and_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def mine() -> recipes.Recipe:
        paper = recipes.recipe("flux-dev")
        return replace(paper, summary="mine", train=replace(paper.train, base=tiny.dev(), frame_size=(32, 32)))

    monkeypatch.setitem(recipes.RECIPES, "mine", mine)
    for verb in ("curate", "train", "generate", "serve", "export", "plan"):
        assert main([verb, "mine", "--dry-run"]) == 0, verb
        assert json.loads(capsys.readouterr().out)
    assert main(["plan", "mine"]) == 0
    assert "memory of a device" in capsys.readouterr().out


def test_a_method_is_a_file_and_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Upside(CopyReference):
        """Draws the reference on its head."""

        def generate(self, requests):
            return [picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM) for picture in super().generate(requests)]

    module = ModuleType("dsd.baselines.upside")
    module.upside = lambda setting: Upside(name=setting.name)  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "dsd.baselines.upside", module)
    line = replace(methods.METHODS["copy"], builder="upside:upside")
    monkeypatch.setitem(methods.METHODS, "upside", line)
    assert (
        main(
            ["evaluate", "--subjects", "2", "--steps", "1", "--methods", "upside", "--no-apart", "--out", str(tmp_path)]
        )
        == 0
    )
    assert "| upside |" in capsys.readouterr().out


def test_a_metric_is_a_file_and_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def on(bench: Bench) -> Measure:
        """How bright the pictures are, beside the reference."""

        def brightness(picture: Image.Image) -> float:
            return ImageStat.Stat(picture.convert("L")).mean[0] / 255

        return lambda known, drawn: torch.tensor(
            [brightness(p) - brightness(known.subject.reference) for p in drawn.asked.images]
        )

    line = Metric(title="brighter", meaning="mean grey above the reference's", on=on, splits=frozenset({"groups"}))
    monkeypatch.setitem(metrics.METRICS, "brighter", line)
    assert main(["evaluate", "--subjects", "4", "--steps", "1", "--no-apart", "--out", str(tmp_path)]) == 0
    assert "| brighter |" in capsys.readouterr().out
    rows = {(r["method"], r["metric"]): r for r in json.loads((tmp_path / "table.json").read_text())["rows"]}
    assert rows["copy", "brighter"]["mean"] == 0 and rows["copy", "brighter/characters"]["mean"] == 0
    assert rows["truth", "brighter"]["mean"] != 0
    assert "<b>brighter</b>: mean grey above" in (tmp_path / "index.html").read_text().replace("&#39;", "'")
