"""Claims about the baseline that is fitted to each subject, on a tiny random FLUX."""

from __future__ import annotations

import dataclasses

import pytest
import tiny
import torch
from PIL import Image

from dsd.baselines.dreambooth import DreamBooth, Tuning
from dsd.baselines.fitting import Fit
from dsd.baselines.protocol import Drawing, Request
from dsd.baselines.text_only import TextOnly
from dsd.images import to_tensor
from dsd.sampling import Sampling

DRAWING = Drawing(size=(32, 32), max_sequence_length=tiny.TEXT_TOKENS, sampling=Sampling(steps=2), true_guidance=1.0)
TUNING = Tuning(identifier="", steps=3, batch=2, prior_prompts=("a {subject}", "a dog"), learning_rate=1e-2)


def asked(subject: str, color: str, prompt: str = "a {} at sea") -> Request:
    return Request(
        subject_id=subject, subject=subject, reference=Image.new("RGB", (32, 32), color), prompt=prompt.format(subject),
        prompt_index=0, seed=5,
    )  # fmt: skip


def method_of(tuning: Tuning) -> DreamBooth:
    return DreamBooth(model=TextOnly.load(tiny.schnell(), DRAWING), tuning=tuning)


def drawn(method: DreamBooth, request: Request) -> bytes:
    method.prepare([request])
    return method.generate([request])[0].tobytes()


@pytest.fixture(params=[0, 4], ids=["full", "lora"])
def tuning(request: pytest.FixtureRequest) -> Tuning:
    return dataclasses.replace(TUNING, rank=request.param)


def test_a_subject_is_learnt_and_put_back_before_the_next(tuning: Tuning) -> None:
    method = method_of(tuning)
    cat, dog = asked("cat", "red"), asked("dog", "blue")
    before = method.generate([cat])[0].tobytes()
    first, second = drawn(method, cat), drawn(method, dog)
    assert first != before
    assert drawn(method, cat) == first, "nothing of the dog is left"
    assert second == drawn(method_of(tuning), dog)


def test_the_reference_becomes_likelier_than_before(tuning: Tuning) -> None:
    method = method_of(dataclasses.replace(tuning, steps=40, prior_weight=0.1))
    cat = asked("cat", "red", "a {}")
    fit = Fit(model=method.model, parameters=[], learning_rate=1.0, steps=0, guidance=1.0)
    latents = fit.backbone.encode(to_tensor(cat.reference, DRAWING.size)).expand(16, -1, -1, -1)
    text = fit.backbone.encode_text(["a cat"] * 16, tiny.TEXT_TOKENS)

    @torch.no_grad()
    def loss() -> float:
        return fit.errors(latents, text, torch.Generator().manual_seed(0)).mean().item()

    before = loss()
    method.prepare([cat])
    assert loss() < 0.9 * before


def test_the_identifier_stands_before_the_subject(monkeypatch: pytest.MonkeyPatch) -> None:
    method = method_of(dataclasses.replace(TUNING, identifier="same"))
    seen: list[str] = []
    monkeypatch.setattr(type(method.model), "generate", lambda _, requests: seen.extend(r.prompt for r in requests))
    method.generate([asked("cat", "red")])
    assert seen == ["a same cat at sea"]


def test_every_setting_names_another_method() -> None:
    names = {method_of(t).fingerprint for t in (TUNING, Tuning(), Tuning(seed=1))}
    assert len(names) == 3 and max(map(len, names)) < 100
