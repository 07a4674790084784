"""Claims about the methods that are compared, on a tiny random FLUX: what they train and whose files they read."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from training_parts import FRAME, simple_pairs, small_config
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from dsd.backbones.flux.backbone import FluxBackbone
from dsd.backbones.flux.ip_adapter import WEIGHTS_FILE
from dsd.baselines import registry
from dsd.baselines.conditioned import Conditioned
from dsd.baselines.dreambooth import Tuning
from dsd.baselines.faces import CROP, Faces, Found, aligned, draw_landmarks
from dsd.baselines.protocol import Drawing, Request
from dsd.baselines.setting import Setting
from dsd.baselines.textual_inversion import Inversion
from dsd.errors import UserError
from dsd.images import to_tensor
from dsd.sampling import Sampling
from dsd_world.draw import draw_panels, landmarks
from dsd_world.fits import FITS
from dsd_world.individuals import CHARACTERS, sample_individuals, sample_scenes
from dsd_world.models.face import FaceTask

DRAWING = Drawing(
    size=(FRAME, FRAME), max_sequence_length=tiny.TEXT_TOKENS, sampling=Sampling(steps=2), true_guidance=2.5
)
NO_GUIDANCE = Sampling(steps=2, text_scale=1.0, image_scale=1.0)
TRAINED = ("ip-adapter", "ip-adapter-plus", "ip-adapter-on-pairs", "controlnet", "instantid")


@pytest.fixture(scope="module")
def clip() -> str:
    """A CLIP as hubs have it, whose image features are projected."""
    torch.manual_seed(0)
    small: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = CLIPConfig(
        text_config={**small, "vocab_size": 64, "projection_dim": 12},
        vision_config={**small, "image_size": FRAME, "patch_size": 8, "projection_dim": 12},
        projection_dim=12,
    )
    folder = tiny.scratch() / "clip-vision"
    CLIPModel(config).save_pretrained(folder)
    size = {"height": FRAME, "width": FRAME}
    CLIPImageProcessor(size=size, crop_size=size).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def faces() -> str:
    """A face pack after a step."""
    task = FaceTask(steps=1)
    task.export(tiny.scratch() / "faces", "random")
    return str(tiny.scratch() / "faces")


def setting_of(name: str, folder: Path, clip: str, faces: str, **changes: Any) -> Setting:
    budget = small_config(checkpoint_every=2, sample_every=4)
    given = {
        "base": budget.base,
        "data": simple_pairs(),
        "budget": budget,
        "runs": folder,
        "vision": clip,
        "faces": faces,
        "captioner": "embedded:tiny-vlm",
        "fits": FITS,
    }
    return Setting(name=name, drawing=DRAWING, **{**given, **changes})


def asked(color: str = "red", seed: int = 3) -> Request:
    return Request(
        subject_id=color, subject="cat", reference=Image.new("RGB", (FRAME, FRAME), color), prompt="a cat at the beach",
        prompt_index=0, seed=seed,
    )  # fmt: skip


def built(name: str, setting: Setting) -> Conditioned:
    method = registry.build(name, setting)
    assert isinstance(method, Conditioned)
    return method


@pytest.mark.parametrize("name", TRAINED)
def test_a_killed_training_goes_on_and_ends_with_the_same_weights(
    name: str, tmp_path: Path, clip: str, faces: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dsd.baselines.conditioned import ConditionedTask

    whole = built(name, setting_of(name, tmp_path / "whole", clip, faces))
    step, original = 0, ConditionedTask.train_step

    def killed(self: ConditionedTask, number: int) -> dict[str, Any]:
        nonlocal step
        step = number
        if number == 3:
            raise KeyboardInterrupt
        return original(self, number)

    monkeypatch.setattr(ConditionedTask, "train_step", killed)
    setting = setting_of(name, tmp_path / "killed", clip, faces)
    with pytest.raises(KeyboardInterrupt):
        registry.build(name, setting)
    monkeypatch.setattr(ConditionedTask, "train_step", original)
    again = built(name, setting)
    assert step == 3 and again.fingerprint == whole.fingerprint
    assert again.generate([asked()])[0].tobytes() == whole.generate([asked()])[0].tobytes()


@pytest.mark.parametrize(
    ("name", "other"),
    [("ip-adapter", "vision"), ("instantid", "faces"), ("controlnet", "base"), ("student", "base")],
    ids=lambda word: word,
)
def test_a_finished_method_is_of_what_it_was_trained_with(
    name: str, other: str, tmp_path: Path, clip: str, faces: str
) -> None:
    budget = small_config(steps=1, sample_every=9)
    setting = setting_of(name, tmp_path, clip, faces, budget=budget)
    model: Any = getattr(setting, other)
    changed = shutil.copytree(model, tmp_path / "changed")
    first: Any = registry.build(name, setting)
    weights = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    again: Any = registry.build(name, setting)
    assert again.fingerprint == first.fingerprint
    path = next(changed.rglob("config.json"))
    path.write_text(path.read_text() + "\n")
    given = {other: str(changed)}
    more = {"budget": dataclasses.replace(budget, base=str(changed))} if other == "base" else {}
    for wrong, words in (
        ({"data": simple_pairs(10)}, r"revision \w+ of (pairs|data)"),
        ({"budget": dataclasses.replace(budget, learning_rate=0.5)}, "learning_rate"),
        ({**given, **more}, f"revision \\w+ of {other}|with base = "),
    ):
        with pytest.raises(UserError, match=words):
            registry.build(name, dataclasses.replace(setting, **wrong))
    assert {path: path.stat().st_mtime_ns for path in weights} == weights
    longer = dataclasses.replace(setting, budget=dataclasses.replace(budget, steps=2))
    assert cast(Any, registry.build(name, longer)).fingerprint != first.fingerprint, "a longer budget is trained on"
    with pytest.raises(UserError, match=r"has done 2 steps, but train\.steps is 1"):
        registry.build(name, setting)


def test_pictures_by_another_image_encoder_are_others(tmp_path: Path, clip: str, faces: str) -> None:
    setting = setting_of("ip-adapter", tmp_path, clip, faces, budget=small_config(steps=1, sample_every=9))
    built("ip-adapter", setting)
    weights = str(setting.training().run / "weights")
    other = Path(shutil.copytree(clip, tmp_path / "other"))
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    prints = {
        built("ip-adapter", dataclasses.replace(setting, weights=weights, vision=vision)).fingerprint
        for vision in (clip, str(other))
    }
    assert len(prints) == 2


@pytest.mark.parametrize("name", ("ip-adapter", "ip-adapter-plus", "controlnet", "instantid"))
def test_a_method_s_weights_that_are_no_numbers_are_refused(name: str, tmp_path: Path, clip: str, faces: str) -> None:
    setting = setting_of(name, tmp_path, clip, faces, budget=small_config(steps=1, sample_every=9))
    built(name, setting)
    path = min((setting.training().run / "weights").rglob("*.safetensors"))
    tensors = load_file(path)
    last = list(tensors)[-1]
    save_file(tensors | {last: torch.full_like(tensors[last], torch.nan)}, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match="no finite numbers"):
        built(name, setting)


@pytest.mark.parametrize("name", ("ip-adapter", "ip-adapter-plus", "controlnet", "instantid"))
def test_training_leaves_the_model_itself_alone_and_moves_what_is_beside_it(
    name: str, tmp_path: Path, clip: str, faces: str
) -> None:
    budget = small_config(learning_rate=0.1, muon_learning_rate=0.2)
    method = built(name, setting_of(name, tmp_path, clip, faces, budget=budget))
    untouched = FluxBackbone.from_pretrained(tiny.schnell()).transformer.state_dict()
    now = method.backbone.transformer.state_dict()
    assert all(torch.equal(value, now[key]) for key, value in untouched.items())
    assert method.generate([asked("red")])[0].tobytes() != method.generate([asked("blue")])[0].tobytes()


@pytest.mark.parametrize("name", ("ip-adapter", "ip-adapter-plus", "controlnet", "instantid"))
def test_untrained_a_method_draws_what_the_frozen_model_draws(name: str, tmp_path: Path, clip: str, faces: str) -> None:
    frozen = {"learning_rate": 1e-30, "muon_learning_rate": 1e-30, "weight_decay": 0.0}
    setting = setting_of(name, tmp_path, clip, faces)
    setting = dataclasses.replace(setting, budget=dataclasses.replace(setting.budget, **frozen))
    plain = dataclasses.replace(DRAWING, sampling=NO_GUIDANCE, true_guidance=1.0)
    method = dataclasses.replace(built(name, setting), drawing=plain)
    teacher = registry.build("teacher", dataclasses.replace(setting, drawing=plain))
    drawn, wanted = method.generate([asked()])[0], teacher.generate([asked()])[0]
    assert max(abs(a - b) for a, b in zip(drawn.tobytes(), wanted.tobytes(), strict=True)) <= 1


def test_a_trained_ip_adapter_is_read_by_the_stock_pipeline(tmp_path: Path, clip: str, faces: str) -> None:
    from diffusers import FluxPipeline

    method = built("ip-adapter", setting_of("ip-adapter", tmp_path, clip, faces))
    method = dataclasses.replace(method, drawing=dataclasses.replace(DRAWING, sampling=NO_GUIDANCE))
    folder = tmp_path / "ip-adapter-seed0" / "weights"
    pipeline = FluxPipeline.from_pretrained(tiny.schnell(), dtype=torch.float32)
    pipeline.load_ip_adapter(folder, weight_name=WEIGHTS_FILE, image_encoder_pretrained_model_name_or_path=None)
    look = method.conditioner.look([asked().reference])
    stock = pipeline(
        asked().prompt, ip_adapter_image_embeds=[look["features"][None]],
        negative_ip_adapter_image_embeds=[torch.zeros_like(look["features"])[None]],
        height=FRAME, width=FRAME, num_inference_steps=2, max_sequence_length=tiny.TEXT_TOKENS,
        latents=_noise_of(method), output_type="pil",
    ).images[0]  # fmt: skip
    ours = method.generate([asked()])[0]
    assert max(abs(a - b) for a, b in zip(ours.tobytes(), stock.tobytes(), strict=True)) <= 1


def _noise_of(method: Conditioned) -> torch.Tensor:
    from diffusers.utils.torch_utils import randn_tensor

    from dsd.backbones.flux.backbone import pack

    side = FRAME // method.backbone.pixels_per_latent
    shape = (1, method.backbone.latent_channels, side, side)
    return pack(randn_tensor(shape, [torch.Generator().manual_seed(asked().seed)]))


def test_a_published_ip_adapter_s_names_are_read(tmp_path: Path, clip: str, faces: str) -> None:
    own = built("ip-adapter", setting_of("ip-adapter", tmp_path, clip, faces))
    tensors = load_file(tmp_path / "ip-adapter-seed0" / "weights" / WEIGHTS_FILE)
    names = {
        "to_k_ip": "processor.ip_adapter_double_stream_k_proj",
        "to_v_ip": "processor.ip_adapter_double_stream_v_proj",
    }
    published = {}
    for key, value in tensors.items():
        part, _, rest = key.partition(".")
        for ours, theirs in names.items():
            rest = rest.replace(ours, theirs)
        published[f"{'ip_adapter_proj_model' if part == 'image_proj' else 'double_blocks'}.{rest}"] = value
    (tmp_path / "published").mkdir()
    save_file(published, tmp_path / "published" / WEIGHTS_FILE)
    setting = setting_of("ip-adapter", tmp_path / "x", clip, faces, weights=str(tmp_path / "published"), data=())
    assert built("ip-adapter", setting).generate([asked()])[0].tobytes() == own.generate([asked()])[0].tobytes()


def test_a_trained_controlnet_is_the_stock_one(tmp_path: Path, clip: str, faces: str) -> None:
    from diffusers import FluxControlNetModel

    built("controlnet", setting_of("controlnet", tmp_path, clip, faces))
    stock: Any = FluxControlNetModel.from_pretrained(tmp_path / "controlnet-seed0" / "weights")
    assert stock.config.num_layers == 1 and stock.config.num_single_layers == 2


@pytest.mark.parametrize("name", ("ip-adapter", "controlnet", "instantid"))
def test_guidance_distilled_models_are_told_their_guidance(name: str, tmp_path: Path, clip: str, faces: str) -> None:
    budget = small_config(base=tiny.dev(), steps=1, sample_every=1, checkpoint_every=1)
    setting = setting_of(name, tmp_path, clip, faces, base=tiny.dev(), budget=budget)
    assert built(name, setting).generate([asked()])[0].size == (FRAME, FRAME)


def test_without_a_face_instantid_draws_from_the_text_alone(tmp_path: Path, clip: str, faces: str) -> None:
    method = built("instantid", setting_of("instantid", tmp_path, clip, faces))
    real: Any = method.conditioner

    def nothing(pictures: Any) -> Found:
        found = Faces.find(real.faces, pictures)
        return Found(torch.zeros_like(found.present), found.landmarks, torch.zeros_like(found.identity))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(real.faces, "find", nothing)
        red, blue = (method.generate([asked(color)])[0] for color in ("red", "blue"))
    assert red.tobytes() == blue.tobytes()


def test_landmarks_lie_on_the_eyes_and_crops_are_upright() -> None:
    who = sample_individuals("validation", torch.arange(40))
    who = who.take(who.kind == CHARACTERS.index("robot"))
    scenes = sample_scenes("validation", torch.arange(len(who)))
    images, points = draw_panels(who, scenes), landmarks(who, scenes)
    at = ((points[:, :2] + 1) / 2 * images.shape[-1]).long().clamp(0, images.shape[-1] - 1)
    iris = torch.stack([images[i, :, y, x] for i in range(len(who)) for x, y in at[i].tolist()])
    assert (iris.max(1).values - iris.min(1).values).mean() > 0.3, "an iris has a colour"
    crops = aligned(images, points)
    assert crops.shape == (len(who), 3, CROP, CROP)
    drawn = draw_landmarks(Found(torch.tensor([True, False]), points[:2], torch.zeros(2, 1)), (64, 64))
    assert drawn[0].getbbox() is not None and drawn[1].getbbox() is None


def test_a_new_word_changes_nothing_but_itself(tmp_path: Path, clip: str, faces: str) -> None:
    setting = setting_of("textual-inversion", tmp_path, clip, faces, captioner=None)
    teacher, method = registry.build("teacher", setting), registry.build("textual-inversion", setting)
    inverted: Any = method
    inverted.inversion = dataclasses.replace(inverted.inversion, steps=3)
    method.prepare([asked("red")])
    first = method.generate([asked("red")])[0].tobytes()
    other = dataclasses.replace(asked(), subject="bird", prompt="a dog in the snow")
    wanted, drawn = teacher.generate([other])[0].tobytes(), method.generate([other])[0].tobytes()
    assert drawn == wanted, "a prompt without the subject's words is drawn as ever"
    method.prepare([asked("blue")])
    assert method.generate([asked("red")])[0].tobytes() != first
    method.prepare([asked("red")])
    assert method.generate([asked("red")])[0].tobytes() == first


def test_what_survives_the_noise_is_kept(tmp_path: Path, clip: str, faces: str) -> None:
    method: Any = registry.build("sdedit", setting_of("sdedit", tmp_path, clip, faces))
    red, blue = asked("red"), asked("blue")
    half, whole = (dataclasses.replace(method, strength=strength) for strength in (0.5, 1.0))
    together = to_tensor(half.generate([red, blue]))
    assert torch.allclose(to_tensor(half.generate([blue])), together[1:], atol=0.02), "each by itself"
    assert not torch.allclose(together[0], together[1], atol=0.1)
    assert whole.generate([red])[0].tobytes() == whole.generate([blue])[0].tobytes(), "nothing of the reference is left"


def test_every_method_says_what_it_lacks(tmp_path: Path, clip: str, faces: str) -> None:
    for name, entry in registry.METHODS.items():
        if entry.trained:
            with pytest.raises(UserError, match="give pairs to train it on"):
                registry.build(name, setting_of(name, tmp_path, clip, faces, data=()))
    with pytest.raises(UserError, match='did you mean "controlnet"'):
        registry.build("control-net", setting_of("x", tmp_path, clip, faces))
    with pytest.raises(UserError, match="finds faces"):
        registry.build("instantid", dataclasses.replace(setting_of("x", tmp_path, clip, faces), faces=None))


@pytest.mark.parametrize("turn", [0.0, 0.6, -1.2])
@pytest.mark.parametrize("size", [0.15, 0.3])
def test_crops_show_a_face_upright_and_at_one_size(turn: float, size: float) -> None:
    """Five dots of their own colours, turned and moved about, are found where the crop of an upright face has them."""
    colors = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1]])
    upright = torch.tensor([[-1.0, -0.7], [1.0, -0.7], [0.0, 0.0], [-0.7, 0.9], [0.7, 0.9]])
    cos, sin = np.cos(turn), np.sin(turn)
    points = size * upright @ torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float32) + torch.tensor([0.1, -0.15])
    axis = torch.linspace(-1, 1, 257)[:-1] + 1 / 256
    near = (axis[None, :, None] - points[:, 1, None, None]) ** 2 + (axis - points[:, 0, None, None, None])[:, 0] ** 2
    image = -torch.ones(3, 256, 256)
    for dot, color in zip(near < (0.25 * size) ** 2, colors, strict=True):
        image[:, dot] = 2 * color[:, None] - 1
    (crop,) = aligned(image[None], points[None])
    found = []
    for color in colors:
        there = (crop - (2 * color - 1)[:, None, None]).abs().amax(0) < 0.5
        found.append((there.nonzero().float().mean(0).flip(0) + 0.5) / CROP * 2 - 1)
    left, right, nose, mouth_left, mouth_right = found
    assert left[1] == pytest.approx(float(right[1]), abs=0.05), "eyes are level"
    assert left[0] < nose[0] - 0.2 and right[0] > nose[0] + 0.2, "and on their sides"
    assert mouth_left[0] < mouth_right[0] and mouth_left[1] > nose[1] > left[1], "the mouth is below"
    assert float(right[0] - left[0]) == pytest.approx(2 * 2 / 3.2 / 2, abs=0.06), "at one size"


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("name", ["teacher", "dreambooth", "dreambooth-lora", "textual-inversion", "sdedit"])
def test_methods_that_are_fitted_or_need_no_training_draw_with_every_family(
    name: str, family: str, tmp_path: Path, clip: str, faces: str
) -> None:
    base = tiny.FAMILIES[family]()
    fits = {
        "dreambooth": Tuning(steps=1, batch=1, prior_prompts=("a {subject}",)),
        "dreambooth-lora": Tuning(steps=1, batch=1, rank=2, prior_prompts=("a {subject}",)),
        "textual-inversion": Inversion(steps=1, batch=1),
    }
    setting = setting_of(name, tmp_path, clip, faces, base=base, fits=fits, captioner=None)
    if (name, family) == ("sdedit", "flux2"):
        with pytest.raises(UserError, match='not there for models of the family "flux2"'):
            registry.build(name, setting)
        return
    method = registry.build(name, setting)
    method.prepare([asked()])
    assert method.generate([asked()])[0].size == (FRAME, FRAME)


@pytest.mark.parametrize("name", ["controlnet", "ip-adapter"])
def test_methods_that_a_family_does_not_have_yet_say_so(name: str, tmp_path: Path, clip: str, faces: str) -> None:
    with pytest.raises(UserError, match='for models of the family "sd3" yet, only for: flux'):
        registry.build(name, setting_of(name, tmp_path, clip, faces, base=tiny.sd3()))
