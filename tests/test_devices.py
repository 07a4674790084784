"""Claims about devices and numbers: nothing that draws mixes devices; wrong kernels and precisions are not used."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from elsewhere import ELSEWHERE, MixedDevices, elsewhere, fetched
from torch import Tensor
from torch.nn.attention import SDPBackend

from dsd import attention
from dsd.errors import UserError
from dsd.train import checkpoint, loop
from dsd_world.draw import draw, draw_panels, hsv, landmarks
from dsd_world.examined_pairs import equal_word_pairs, one_part_pairs
from dsd_world.individuals import drifted, sample_individuals, sample_scenes, strangers
from dsd_world.models import clip, dino, face, vlm_data
from dsd_world.models.soften import softened
from dsd_world.models.teacher import TokenIds
from dsd_world.sheets import draw_sheets
from dsd_world.training import precision_of

COUNT = 48


def _panels(index: Tensor) -> Tensor:
    return draw_panels(sample_individuals("training", index), sample_scenes("training", index))


def _maps(index: Tensor) -> Tensor:
    drawing = draw(sample_individuals("training", index), sample_scenes("training", index))
    return torch.cat([drawing.depth, drawing.light])


def _others(index: Tensor) -> Tensor:
    who = sample_individuals("training", index)
    scenes = sample_scenes("training", index)
    return torch.cat([draw_panels(other(who, "training", index), scenes) for other in (strangers, drifted)])


def _families(index: Tensor) -> Tensor:
    return draw_panels(*vlm_data.families("training", index))


def _softened(index: Tensor) -> Tensor:
    return softened(_panels(index), torch.Generator().manual_seed(0))


def _dino(index: Tensor) -> Tensor:
    who, numbers = dino.families("training", 0, len(index), index.device)
    return torch.cat(dino.two_views(who, numbers, "training"))


DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "panels": _panels,
    "depth and light": _maps,
    "strangers and drifted": _others,
    "sheets": lambda index: draw_sheets("training", index).images,
    "strips": lambda index: draw_sheets("training", index, (1, 2)).images,
    "landmarks": lambda i: landmarks(sample_individuals("training", i), sample_scenes("training", i)),
    "families of the judge": _families,
    "pairs of equal words": lambda index: equal_word_pairs("validation", index).second,
    "pairs that differ in a part": lambda index: one_part_pairs("validation", index, "eyes").second,
    "softened": _softened,
    "tiny-dino": _dino,
    "tiny-clip": lambda index: clip.combined_scenes("training", index).place,
    "faces": lambda index: torch.cat([part.flatten() for part in face._views("training", 0, 8, index.device)[:2]]),
}
"""Everything that recipes draw, from numbers of individuals on the device that it shall be drawn on."""


@pytest.mark.parametrize("name", DRAWS)
def test_whatever_recipes_draw_is_drawn_on_the_device_of_its_numbers_and_comes_out_the_same(name: str) -> None:
    here = DRAWS[name](torch.arange(COUNT))
    with elsewhere() as device:
        there = DRAWS[name](torch.arange(COUNT, device=device))
    assert torch.equal(fetched(there), here)


@pytest.mark.parametrize("number", [0.5, torch.tensor(0.5), torch.full((3,), 0.5)])
def test_a_colour_takes_plain_numbers_on_any_device(number: float | Tensor) -> None:
    hue = torch.tensor([0.1, 0.5, 0.9])
    with elsewhere() as device:
        number_there = number.to(device) if isinstance(number, Tensor) and number.ndim else number
        found = hsv(hue.to(device), number_there, number_there)
    assert torch.equal(fetched(found), hsv(hue, number, number))


def test_the_other_device_refuses_to_meet_this_one() -> None:
    with elsewhere() as device:
        there = torch.zeros(3, device=device)
        assert there.device == ELSEWHERE
        assert torch.equal(fetched(there + 1), torch.ones(3)) and torch.equal(there.cpu(), torch.zeros(3))
        for meet in (
            lambda: there + torch.zeros(3),
            lambda: torch.zeros(3)[there.long()],
            lambda: torch.cat([there, torch.zeros(3)]),
        ):
            with pytest.raises(MixedDevices):
                meet()


def test_captions_tokenised_once_are_encoded_as_the_pipeline_encodes_them() -> None:
    import tiny
    from diffusers import FluxPipeline

    pipeline = FluxPipeline.from_pretrained(tiny.schnell(), dtype=torch.float32)
    captions = ["a red striped cat with a hat smiling on the left at the beach", "a blue car at sea", ""]
    ids, empty = TokenIds.of(pipeline, captions, 16), TokenIds.of(pipeline, [""], 16)
    dropped = ids.dropped(torch.tensor([False, True, False]), empty)
    for found, texts in ((ids, captions), (dropped, [captions[0], "", ""])):
        tokens, pooled, _ = pipeline.encode_prompt(texts, None, max_sequence_length=16)
        text = found.encoded(pipeline)
        assert torch.equal(text.tokens, tokens) and torch.equal(text.pooled, pooled)
    assert text.tokens.requires_grad


def test_a_right_kernel_is_known_from_a_wrong_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert attention.is_right("MATH", "cpu", torch.float32) and attention.is_right(
        "FLASH_ATTENTION", "cpu", torch.float32
    )
    assert not attention.is_right("CUDNN_ATTENTION", "cpu", torch.float32), "there is none on a CPU"
    plain = torch.nn.functional.scaled_dot_product_attention

    def wrong_backward(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = plain(query, key, value)
        if torch._C._get_math_sdp_enabled():
            return out
        out.register_hook(lambda gradient: gradient * float("nan"))
        return out

    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", wrong_backward)
    assert not attention.is_right("FLASH_ATTENTION", "cpu", torch.float32), "its gradients are NaN"


def test_kernels_that_are_wrong_are_left_out_and_plain_attention_never_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert attention.right_kernels(lambda kernel: kernel != "CUDNN_ATTENTION") == (
        "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH",
    )  # fmt: skip
    assert "without CUDNN_ATTENTION" in capsys.readouterr().err
    assert attention.right_kernels(lambda kernel: False) == ("MATH",)
    assert all(kernel in SDPBackend.__members__ for kernel in attention.FUSED)


def test_a_kernel_is_tried_in_a_process_of_its_own_and_one_that_cannot_run_is_wrong() -> None:
    if torch.cuda.is_available():
        pytest.skip("says nothing where there is a GPU")
    assert not attention.TRAINS("FLASH_ATTENTION")


def test_what_attention_is_given_is_seen_without_computing_it_and_tried_in_that_shape(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    query, key = torch.randn(3, 2, 40, 16), torch.randn(3, 2, 48, 16)
    with attention.Seen() as seen, torch.autocast("cpu", torch.bfloat16):
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value=key)
        torch.nn.functional.scaled_dot_product_attention(query, key, key, torch.ones(40, 48, dtype=torch.bool))
        torch.nn.functional.scaled_dot_product_attention(query, key, key)
    assert out.shape == query.shape and out.dtype == torch.bfloat16 and not out.any()
    given = (attention.Attended(3, 2, 40, 48, 16), attention.Attended(3, 2, 40, 48, 16, masked=True))
    assert tuple(seen.all) == given
    assert attention.is_right("MATH", "cpu", torch.bfloat16, given=given)
    asked: list[list[str]] = []

    class Ended:
        returncode = 0

    def run(command: list[str], **_: object) -> Ended:
        asked.append(command)
        if "CUDNN_ATTENTION" in command:
            Ended.returncode = -11  # as of a process that an illegal memory access ended
        else:
            Ended.returncode = 0
        return Ended()

    monkeypatch.setattr(attention.subprocess, "run", run)
    tried = attention.Apart(given, "bfloat16")
    assert attention.right_kernels(tried) == ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH")
    assert len(asked) == 3 and attention.right_kernels(attention.Apart(given, "bfloat16")) and len(asked) == 3, "cached"
    said = capsys.readouterr().err
    assert "3 x 40 tokens, 2 heads of 16, bfloat16): FLASH_ATTENTION, without CUDNN_ATTENTION" in said
    judged: list[object] = []
    monkeypatch.setattr(attention, "is_right", lambda *given, **named: judged.append((given, named)) or True)
    assert attention._main(asked[0][-2:]) == 0
    assert judged == [(("CUDNN_ATTENTION", "cuda", torch.bfloat16), {"given": list(given), "backward": True})]


def test_kernels_that_were_left_out_stay_left_out_within() -> None:
    with attention.only(("FLASH_ATTENTION", "MATH")):
        with attention.only(("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH")):
            assert torch.backends.cuda.flash_sdp_enabled()
            assert not torch.backends.cuda.cudnn_sdp_enabled()
            assert not torch.backends.cuda.mem_efficient_sdp_enabled()
        assert torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cuda.cudnn_sdp_enabled() and torch.backends.cuda.mem_efficient_sdp_enabled()


class _Sum(loop.Task):
    """A recipe of one weight whose loss may go wrong in low precision."""

    low = False

    def __init__(self, steps: int, wrong: float) -> None:
        self.wrong = wrong

    def train_step(self, step: int) -> dict[str, float | Tensor]:
        return {"loss": torch.tensor(1.0 + step + (self.wrong if _Sum.low and step else 0.0))}

    def tensors(self) -> dict[str, Tensor]:
        return {"weight": torch.zeros(1)}

    def restore(self, tensors: dict[str, Tensor]) -> None: ...

    def evaluate(self, step: int) -> dict[str, float]:
        return {}


@contextlib.contextmanager
def _low() -> Iterator[None]:
    _Sum.low = True
    try:
        yield
    finally:
        _Sum.low = False


@pytest.mark.parametrize(("wrong", "trusted"), [(0.0, True), (0.02, True), (1.0, False), (float("nan"), False)])
def test_low_precision_is_used_only_where_the_first_losses_are_those_of_float32(wrong: float, trusted: bool) -> None:
    with precision_of(lambda steps: _Sum(steps, wrong), _low):  # pyright: ignore[reportArgumentType]
        assert _Sum.low == trusted


class _Diverging(_Sum):
    def train_step(self, step: int) -> dict[str, float | Tensor]:
        return {"loss": float("nan") if step >= 7 else 1.0}


def test_a_training_that_diverges_stops_with_a_sentence_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="loss is no finite number at step 9"):
        loop.run(
            _Diverging(20, 0), folder=tmp_path, steps=20, checkpoint_every=3, evaluate_every=20, description="test",
        )  # fmt: skip
    assert [step for step, _ in checkpoint.step_folders(tmp_path / "checkpoints")] == [3, 6]
