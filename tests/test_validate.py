"""Held-out drawings are measured by identity and prompt following."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from training_parts import small_config

from dsd.encoders import ImageEncoder, PictureTextEncoder
from dsd.train.samples import Row
from dsd.train.trainer import train
from dsd.train.validate import Encoders, Validation
from dsd_world.drawn_pairs import DrawnPair, drawn_pairs


@pytest.fixture(scope="module")
def pairs() -> list[DrawnPair]:
    return drawn_pairs(16)[::2]


def _validation(pairs: list[DrawnPair]) -> Validation:
    return Validation(
        Encoders(ImageEncoder("embedded:tiny-dino"), PictureTextEncoder("embedded:tiny-clip")),
        references=[pair.reference for pair in pairs], targets=[[pair.target] for pair in pairs],
        captions=[pair.target_caption for pair in pairs],
    )  # fmt: skip


def _rows(pairs: list[DrawnPair], drawn: list[Image.Image]) -> list[Row]:
    made = zip(pairs, drawn, strict=True)
    return [Row([pair.reference], [picture], [pair.target], pair.target_caption) for pair, picture in made]


def test_the_targets_themselves_have_identity_1_and_follow_their_captions(pairs: list[DrawnPair]) -> None:
    figures = _validation(pairs).figures(_rows(pairs, [pair.target for pair in pairs]))
    assert figures["held_out_identity"] == pytest.approx(1, abs=1e-5)
    assert figures["held_out_prompt_following"] >= 0.9


def test_pictures_of_others_have_identity_0_and_follow_nothing(pairs: list[DrawnPair]) -> None:
    validation, found = _validation(pairs), []
    for turn in range(1, len(pairs)):
        drawn = [pair.target for pair in (*pairs[turn:], *pairs[:turn])]
        found.append(validation.figures(_rows(pairs, drawn)))
    assert sum(one["held_out_identity"] for one in found) / len(found) == pytest.approx(0, abs=1e-5)
    assert max(one["held_out_prompt_following"] for one in found) <= 0.2


def test_copies_of_the_reference_have_identity_and_do_not_follow(pairs: list[DrawnPair]) -> None:
    figures = _validation(pairs).figures(_rows(pairs, [pair.reference for pair in pairs]))
    assert figures["held_out_identity"] > 1 and figures["held_out_prompt_following"] < 0.9


def test_what_cannot_be_measured_is_left_out_with_a_warning(
    pairs: list[DrawnPair], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _validation(pairs[:1]).figures(_rows(pairs[:1], [pairs[0].target])) == {}
    said = capsys.readouterr().err
    assert "train.identity is left out" in said and "train.agreement is left out" in said
    same = [pairs[0], pairs[0]]
    assert _validation(same).figures(_rows(same, [pair.target for pair in same])) == {}


def test_a_run_tells_both_beside_its_losses_and_neither_changes_its_weights(tmp_path: Path) -> None:
    names = {"held_out_identity", "held_out_prompt_following"}
    plain = small_config(base="embedded:tiny-flux", steps=1, sample_every=1, held_out=3, max_sequence_length=16)
    measured = replace(plain, identity="embedded:tiny-dino", agreement="embedded:tiny-clip", sampled=2)
    seen, weights = [], []
    for number, config in enumerate((plain, measured)):
        out = tmp_path / str(number)
        weights.append([path.read_bytes() for path in sorted(train(config, drawn_pairs(8), out).glob("*.safetensors"))])
        seen.append(json.loads((out / "metrics.jsonl").read_text().splitlines()[-1]).keys() & names)
    assert seen == [set(), names] and weights[0] and weights[0] == weights[1]
