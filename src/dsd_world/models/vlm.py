"""tiny-vlm: first its tower learns to see, then it learns to describe and to write grid prompts, then to judge pairs.

Judging is learnt on the model's *own* descriptions: a first pass without gradients reads the true words and says the
next one each time; these own words, right or wrong, become the input of the second pass, whose labels stay true. So
the verdict learns how far to trust the words, with the pictures in view.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from dsd.chat.parse import parse_reply
from dsd.chat.protocol import Reply
from dsd.curate.contradiction import misquoted
from dsd.curate.schemas import DirectVerdict, PairVerdict
from dsd.devices import batch_factor, default_device
from dsd.train import checkpoint
from dsd.train.loop import learning_rate_factor, step_generator
from dsd.train.optim import MuonAndAdamW
from dsd_world.captions import panel_captions
from dsd_world.details import detail_phrases, measures
from dsd_world.draw import draw_panels
from dsd_world.examined_pairs import Pairs, equal_word_pairs
from dsd_world.individuals import Individuals, Scenes, sample_individuals, sample_scenes, uniforms
from dsd_world.models.calibration import calibrate
from dsd_world.models.redrawn import RedrawnFamilies
from dsd_world.models.soften import softened
from dsd_world.models.stored import rounded
from dsd_world.models.vlm_captions import PANELS, inspiration
from dsd_world.models.vlm_data import (
    FAMILY,
    IGNORED,
    OTHER_PAIRS,
    SAME_PAIRS,
    Conversations,
    Writer,
    description,
    direct_verdicts,
    families,
    from_token_on,
    misread,
    verdicts,
    without_second_details,
)
from dsd_world.models.vlm_model import TOWER_WIDTH, new_model, new_processor
from dsd_world.words import WORDS, told_words, word_losses

Job = Literal["grid", "describe", "judge", "judge_direct"]
BATCH = 16 * batch_factor()  # panels a step
_REDRAWN_IN_A_ROW = 3  # steps; shares no divisor with the eight steps in which the other jobs come round
_READ_FAMILIES = 8  # families a step whose words alone are compared
_GRID_PROMPTS = 24  # a step
_DRAWN_AT_ONCE = 16  # steps
_SEEING_UNTIL, _DESCRIBING_UNTIL = 0.34, 0.48  # shares of the run
_HELD_PAIRS = 256
_CALIBRATION_PAIRS = 1024
_READ_ONLY = 1 << 30  # individuals whom the vision tower never sees
_FURTHER, _RUNS = 1 << 22, 32  # families of a run, and runs that go on before the first families come again
_JUDGING_RATE = 0.4
_GOING_ON = 0.42
"""The share of the run at which one begins that goes on from a finished model. It describes for a while before it
judges again: what it cannot tell (moods, once mouths had grown) it does not learn by judging alone."""
_MISREADING_STREAM = 23
_SEEN_WORDS = [name for name in WORDS if name != "colour"]  # which is among the measures


def messages(job: Job, caption: str = "") -> list[dict]:
    """The conversation of a job, pictures as placeholders."""
    text = {"grid": f"grid prompt: {caption}", "judge_direct": "judge directly"}.get(job, job)
    images = {"grid": 0, "describe": 1}.get(job, 2)
    parts = [{"type": "image"}] * images + [{"type": "text", "text": text}]
    return [{"role": "user", "content": parts}]


class Sight(nn.Module):
    """What the tower is taught to see, read off the mean of its tokens; used in training only."""

    def __init__(self, measured: int) -> None:
        super().__init__()
        self.measured = measured
        self.read = nn.Linear(TOWER_WIDTH, measured + sum(len(WORDS[name].options) for name in _SEEN_WORDS))

    def forward(self, tokens: Float[Tensor, "n t d"], individuals: Individuals, scenes: Scenes) -> Tensor:
        """Squared errors of the visible measures plus cross-entropies of the categories."""
        out = self.read(F.layer_norm(tokens.mean(1), (tokens.shape[2],)))
        values, weights = measures(individuals)
        errors = (out[:, : self.measured] - values).square() * weights
        loss = (errors.sum(0) / weights.sum(0).clamp(min=1)).sum()
        words = word_losses(out[:, self.measured :], _SEEN_WORDS, individuals, scenes)
        return loss + torch.stack(list(words.values())).sum()


class VlmTask:
    """The three stages on one clock, the share of the run that is done.

    Args:
        run: the run's folder.
        steps: optimizer steps in all.
        seed: of everything random.
        start: the folder of a trained model that goes on judging, each seed on other individuals; it describes first.
        redrawn: families that a teacher drew again, of which half of the steps learn.
    """

    def __init__(
        self,
        run: Path,
        steps: int,
        seed: int = 0,
        start: Path | None = None,
        redrawn: RedrawnFamilies | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self.run, self.steps, self.seed = run, steps, seed
        self.device = torch.device(default_device())
        self.processor = new_processor() if start is None else LlavaProcessor.from_pretrained(start)
        self.writer = Writer(self.processor)
        model = new_model(self.processor.tokenizer) if start is None else _trained(start)
        self.model: LlavaForConditionalGeneration = model.to(self.device)  # pyright: ignore[reportArgumentType]
        self.begun, self.first = (0.0, 0) if start is None else (_GOING_ON, first_family(seed))
        self.redrawn = redrawn
        measured = measures(sample_individuals("validation", torch.arange(1)))[0].shape[1]
        self.sight = Sight(measured).to(self.device)
        self.optimizer = MuonAndAdamW(
            {"model": self.model, "sight": self.sight},
            adamw_names=("embed_tokens", "embeddings.", "focal_layers", "sight."),
            weight_decay=0.05,  # without it attention grows until it saturates and learns nothing new
        )
        self.block = -1
        self.panels: tuple[Individuals, Scenes, Tensor] | None = None

    def _share(self, step: int) -> float:
        """How much of the run is done, in whole blocks of panels drawn together, so that no block spans two stages."""
        return self.begun + (1 - self.begun) * (step // _DRAWN_AT_ONCE * _DRAWN_AT_ONCE / self.steps)

    def _panels(self, step: int) -> tuple[Individuals, Scenes, Tensor]:
        """This step's families, or single panels until it judges; many steps' panels are drawn together."""
        if self.redrawn is not None and step % (2 * _REDRAWN_IN_A_ROW) >= _REDRAWN_IN_A_ROW:
            return self.redrawn.take(torch.arange(BATCH, device=self.device) + step * BATCH)
        block, place = divmod(step, _DRAWN_AT_ONCE)
        if block != self.block or self.panels is None:
            count = BATCH * _DRAWN_AT_ONCE
            index = torch.arange(block * count, (block + 1) * count, device=self.device) + self.first * FAMILY
            if self._share(step) < _DESCRIBING_UNTIL:
                individuals, scenes = sample_individuals("training", index), sample_scenes("training", index)
            else:
                individuals, scenes = families("training", index[::FAMILY] // FAMILY)
            self.panels, self.block = (individuals, scenes, draw_panels(individuals, scenes)), block
        rows = torch.arange(place * BATCH, (place + 1) * BATCH, device=self.device)
        individuals, scenes, images = self.panels
        return individuals.take(rows), scenes.take(rows), images[rows]

    def _tower(self, images: Tensor) -> Tensor:
        return self.model.model.vision_tower(images, output_hidden_states=True).hidden_states[-1]

    def _hidden(self, talk: Conversations, ids: Tensor, features: Tensor | None) -> Tensor:
        """The decoder's last states at the places that have a label."""
        inner = self.model.model
        embedded = inner.language_model.get_input_embeddings()(ids)
        if features is not None:
            placeholders = (ids == self.model.config.image_token_id)[..., None]
            embedded = embedded.masked_scatter(placeholders, features[talk.images.to(self.device)])
        hidden = inner.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        return hidden[(talk.labels != IGNORED).to(self.device)]

    def _losses(self, talk: Conversations, features: Tensor | None) -> tuple[Tensor, Tensor]:
        """Cross-entropy of each reply token and the tokens."""
        labels = talk.labels[talk.labels != IGNORED].to(self.device)
        hidden = self._hidden(talk, talk.ids.to(self.device), features)
        return F.cross_entropy(self.model.lm_head(hidden), labels, reduction="none"), labels

    @torch.no_grad()
    def _in_own_words(
        self, talk: Conversations, features: Tensor | None, step: int, learned: Conversations | None = None
    ) -> Conversations:
        """The same rows with the words of the replies as the model would say them; scaffolding stays.

        Comparisons are scrambled in the rows that it reads: the true ones would tell what the next one is. What they
        say again of the details is what stands there.

        Args:
            talk: whole replies.
            features: of the pictures.
            step: of training, for the scrambling.
            learned: the same rows with the labels that are learnt, where these are not all; other words stay.
        """
        again = [self.writer.said_before(row) for row in talk.labels]
        talk = learned or talk
        ids = self.writer.scrambled(talk.ids, step_generator(self.seed + 1, step))
        hidden = self._hidden(talk, ids.to(self.device), None if features is None else features.detach())
        said = self.model.lm_head(hidden).argmax(1).cpu()
        true = talk.labels[talk.labels != IGNORED]
        fixed = torch.isin(true, self.writer.scaffolding_ids) | torch.isin(said, self.writer.scaffolding_ids)
        own = talk.labels.clone()
        own[talk.labels != IGNORED] = torch.where(fixed, true, said)
        labels = talk.labels.clone()
        for row, sources in enumerate(again):
            places, words = list(sources), own[row, list(sources.values())]
            own[row, places] = labels[row, places] = torch.where(words != IGNORED, words, labels[row, places])
        ids = talk.ids.clone()
        ids[:, 1:] = torch.where(own[:, :-1] != IGNORED, own[:, :-1], ids[:, 1:])
        return Conversations(ids=ids, labels=labels, images=talk.images)

    def _describe(self, individuals: Individuals, scenes: Scenes, features: Tensor) -> dict[str, Tensor]:
        rows = torch.arange(0, BATCH)
        prompts = [self.writer.prompt(messages("describe"))] * len(rows)
        talk = self.writer.write(prompts, description(individuals, scenes), rows[:, None])
        return {"describe": self._losses(talk, features)[0].mean()}

    def _grid(self, step: int) -> dict[str, Tensor]:
        rng = Random(self.seed * 1_000_003 + step)
        examples = [inspiration(rng) for _ in range(_GRID_PROMPTS)]
        prompts = [self.writer.prompt(messages("grid", e.caption)) for e in examples]
        replies = [json.dumps({"subject": e.subject, "scenes": e.scenes}) for e in examples]
        talk = self.writer.write(prompts, replies, torch.empty(len(replies), 0, dtype=torch.long))
        return {"grid": self._losses(talk, None)[0].mean()}

    def _compare_words(self, step: int) -> dict[str, Tensor]:
        """Comparisons of words without pictures: many pairs for little, half described as imperfect eyes see them.

        They begin with the run: a decoder that has learnt other things first takes thousands of steps to look back.
        """
        index = torch.arange(step * _READ_FAMILIES, (step + 1) * _READ_FAMILIES) + _READ_ONLY + self.first
        who, _ = families("training", index)
        pairs, same = _pairs_of(len(who))
        u = uniforms(self.seed, _MISREADING_STREAM, torch.arange(2 * len(pairs)) + step * 2 * len(pairs), 10)
        first, second = (who.take(pairs[:, k]) for k in (0, 1))
        u[::2] = 0.5  # these are seen as they are
        seen = (misread(first, u[: len(pairs)]), misread(second, u[len(pairs) :]))
        question = [{"role": "user", "content": [{"type": "text", "text": "judge"}]}]
        replies = verdicts(first, second, same, seen)
        talk = self.writer.write(
            [self.writer.prompt(question)] * len(pairs), replies, torch.empty(len(pairs), 0).long()
        )
        talk = self._in_own_words(talk, None, step, learned=from_token_on(talk, self.writer.comparison_id))
        point, verdict, words = self._by_kind(*self._losses(talk, None))
        return {"compare": point, "decide": verdict, "repeat": 0.3 * words}

    def _by_kind(self, losses: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean losses of the points of comparisons, of verdicts and of all other tokens."""
        point, verdict = (
            torch.isin(labels, ids.to(self.device)) for ids in (self.writer.point_ids, self.writer.verdict_ids)
        )
        return losses[point].mean(), losses[verdict].mean(), losses[~point & ~verdict].mean()

    def _judge(self, individuals: Individuals, features: Tensor, step: int) -> dict[str, Tensor]:
        pairs, same = _pairs_of(BATCH)
        first, second = (individuals.take(pairs[:, k]) for k in (0, 1))
        prompts = [self.writer.prompt(messages("judge"))] * len(pairs)
        talk = self.writer.write(prompts, verdicts(first, second, same), pairs)
        own = without_second_details(self._in_own_words(talk, features, step), same, self.writer)
        point, verdict, words = self._by_kind(*self._losses(own, features))
        prompts = [self.writer.prompt(messages("judge_direct"))] * len(pairs)
        direct, _ = self._losses(self.writer.write(prompts, direct_verdicts(same), pairs.flip(1)), features)
        decision, end = direct.view(-1, 2).mean(0)
        return {"reasons": words + 0.1 * end, "comparison": point, "verdict": verdict, "direct": decision}

    def train_step(self, step: int) -> dict[str, float | Tensor]:
        """One step of the stage that the step belongs to; every eighth step writes grid prompts."""
        share = self._share(step)
        if step % 8 == 7:
            losses = self._grid(step)
        else:
            individuals, scenes, images = self._panels(step)
            tokens = self._tower(softened(images, step_generator(self.seed, step)))
            losses = {"sight": self.sight(tokens, individuals, scenes)}
            if share >= _SEEING_UNTIL:
                losses["sight"] = losses["sight"] * 0.1
                features = self.model.model.multi_modal_projector(tokens)
                if share < _DESCRIBING_UNTIL or step % 4 == 1:
                    losses |= self._describe(individuals, scenes, features)
                else:
                    losses |= self._judge(individuals, features, step)
            if step % 2 == 0:
                losses |= self._compare_words(step)
        self.optimizer.step(torch.stack(list(losses.values())).sum(), self._rate(step))
        return {name: loss.detach() for name, loss in losses.items()}

    def _rate(self, step: int) -> float:
        """The learning rate's factor; judging is only learnt at a lower one."""
        if self._share(step) < _DESCRIBING_UNTIL:
            return learning_rate_factor(step, self.steps, decay_from=1)
        judged = (self._share(step) - _DESCRIBING_UNTIL) / (1 - _DESCRIBING_UNTIL)
        decay = learning_rate_factor(int(judged * self.steps), self.steps, decay_from=0.3)
        return _JUDGING_RATE * decay

    def tensors(self) -> dict[str, Tensor]:
        """Weights of the model and of what it is taught to see, and the optimizer's state."""
        model = {k: v for k, v in checkpoint.module_tensors(self.model, "model").items() if "lm_head" not in k}
        return model | checkpoint.module_tensors(self.sight, "sight") | self.optimizer.tensors()

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts back a checkpoint."""
        tied = {"model.lm_head.weight": tensors["model.model.language_model.embed_tokens.weight"]}
        checkpoint.restore_module(self.model, tensors | tied, "model")
        checkpoint.restore_module(self.sight, tensors, "sight")
        self.optimizer.restore(tensors)

    @torch.no_grad()
    def say(self, prompts: list[str], images: Tensor | None = None, temperature: float | None = None) -> list[str]:
        """Replies to rendered prompts, greedy or sampled; ``images`` in the order of the placeholders."""
        inputs = self.processor.tokenizer(prompts, add_special_tokens=False, padding=True, return_tensors="pt")
        inputs = {k: inputs[k].to(self.device) for k in ("input_ids", "attention_mask")}
        if images is not None:
            inputs["pixel_values"] = images
        sampling = {"do_sample": False} if temperature is None else {"do_sample": True, "temperature": temperature}
        self.model.eval()
        said = self.model.generate(**inputs, **sampling, max_new_tokens=112)[:, inputs["input_ids"].shape[1] :]  # pyright: ignore[reportAttributeAccessIssue]
        self.model.train()
        return self.processor.tokenizer.batch_decode(said, skip_special_tokens=True)

    def verdicts(self, job: Job, pairs: Pairs) -> list[Reply]:
        """What it says of pairs, and why that cannot be used if it cannot."""
        prompt, schema = self.writer.prompt(messages(job)), PairVerdict if job == "judge" else DirectVerdict
        said: list[str] = []
        for a, b in zip(pairs.first.split(64), pairs.second.split(64), strict=True):
            said += self.say([prompt] * len(a), torch.stack([a, b], 1).flatten(0, 1))
        return [parse_reply(reply, schema) for reply in said]

    def accuracy(self, job: Job, pairs: Pairs) -> float:
        """The share of right verdicts on pairs; a reply that does not parse is wrong."""
        return _right(self.verdicts(job, pairs), pairs)

    def evaluate(self, step: int) -> dict[str, float]:
        """Held-out accuracy of verdicts and details, the share of comparisons that contradict the descriptions above
        them, and that of grid prompts that follow their caption."""
        if self._share(step) < _DESCRIBING_UNTIL:
            return {}
        state = torch.get_rng_state()
        torch.manual_seed(0)
        pairs = equal_word_pairs("validation", torch.arange(_HELD_PAIRS, device=self.device))
        figures = {}
        reasoned = self.verdicts("judge", pairs)
        figures["chain_of_thought"] = _right(reasoned, pairs)
        figures["direct"] = self.accuracy("judge_direct", pairs)
        compared = [misquoted(reply) > 0 for reply in reasoned if isinstance(reply, PairVerdict)]
        figures["misquoting"] = sum(compared) / max(1, len(compared))
        index = torch.arange(64, device=self.device)
        who, at = sample_individuals("validation", index), sample_scenes("validation", index)
        told = [_parsed(r) for r in self.say([self.writer.prompt(messages("describe"))] * 64, draw_panels(who, at))]
        for key, truth in (("details", detail_phrases(who)), ("caption", panel_captions(who, at))):
            figures[key] = sum(_share(t.get(key, ""), true) for t, true in zip(told, truth, strict=True)) / 64
        captions = [str(t.get("caption", "")) for t in told]
        for kind, right in told_words(captions, panel_captions(who, at)).items():
            figures[f"caption_{kind}"] = sum(right) / len(right)
        examples = [inspiration(Random(-1 - i)) for i in range(48)]
        prompts = [self.writer.prompt(messages("grid", e.caption)) for e in examples]
        grids = [_parsed(r) for r in self.say(prompts, temperature=1.0)]
        figures["valid_grid_prompts"] = sum(len(set(g.get("scenes", ()))) == PANELS for g in grids) / len(grids)
        torch.set_rng_state(state)
        return figures

    def score(self, figures: dict[str, float]) -> float:
        """Accuracy of the verdicts with chain of thought."""
        return figures["chain_of_thought"]

    def export(self, folder: Path, card: str) -> None:
        """Writes the standard folder: model in float16, processor, chat template; then calibrates its verdicts."""
        rounded(self.model).save_pretrained(folder)
        self.processor.save_pretrained(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")
        calibrate(folder, self.calibration_pairs())

    def calibration_pairs(self) -> Pairs:
        """Held-out pairs on which the threshold of verdicts is set."""
        return equal_word_pairs("validation", torch.arange(_CALIBRATION_PAIRS))


def first_family(seed: int) -> int:
    """The number of the first family of a run that goes on from a finished model: seeds seldom share families."""
    return _FURTHER * (1 + seed % _RUNS)


def _pairs_of(panels: int) -> tuple[Tensor, list[bool]]:
    """Rows of both panels of each pair within the families of so many panels, and whether it shows one individual."""
    starts = torch.arange(0, panels, FAMILY)[:, None, None]
    pairs = (starts + torch.tensor((*SAME_PAIRS, *OTHER_PAIRS))).flatten(0, 1)
    return pairs, [i % FAMILY < len(SAME_PAIRS) for i in range(len(pairs))]


def _right(replies: list[Reply], pairs: Pairs) -> float:
    return sum(getattr(reply, "same", None) == same for reply, same in zip(replies, pairs.same, strict=True)) / len(
        replies
    )


def _parsed(reply: str) -> dict:
    """The reply's object; empty when it is none."""
    try:
        return json.loads(reply)
    except json.JSONDecodeError:
        return {}


def _share(said: str, true: str) -> float:
    """How many of the true words are said in their place."""
    words = true.split()
    return sum(a == b for a, b in zip(said.split(), words, strict=False)) / len(words)


def _trained(folder: Path) -> LlavaForConditionalGeneration:
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    model.generation_config.sequence_bias = None  # calibrated anew when the training is over
    return model.train()


def build(run: Path, *, steps: int) -> VlmTask:
    """The task for a run of ``steps`` steps."""
    return VlmTask(run, steps)
