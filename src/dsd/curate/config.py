"""What curation is told: one frozen config, readable without torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dsd.chat.openai.address import model_of
from dsd.config import how_it_runs, require_seeds, require_text
from dsd.curate.tasks.registry import DEFAULT, find, task_of
from dsd.errors import UserError
from dsd.limits import MOST_SCALE, MOST_STEPS, MOST_TEXT_TOKENS, require_within

if TYPE_CHECKING:  # imported where it is used: `dsd --help` is quick
    from dsd.data.rows import Pictures

JUDGED_BY = (
    "judge",
    "templates",
    "chain_of_thought",
    "votes",
    "references",
    "targets",
    "sheets_from",
    "min_score",
    "near_copy_threshold",
    "image_format",
    "image_quality",
)
"""Settings that decide nothing about the sheets."""
_LARGEST_PANEL = 2048
"""Pixels of a side: nine such panels are the largest sheet that is read as one picture."""


@dataclass(frozen=True, kw_only=True)
class CurateConfig:
    """Settings of phases 1 and 2. The defaults fit the embedded models on two CPU cores.

    Attributes:
        task: what a sheet shows and what its panels become; see `dsd.curate.tasks`.
        captions: file with a caption a row: ``.parquet``, ``.csv``, ``.tsv`` or ``.jsonl`` with a column ``TEXT`` (or
            ``caption``), or ``.txt`` with one a line; compressed (``.gz``) or not, local or any address that fsspec
            knows. A ``*`` in names of files takes all parts of an export.
        units: how many units of work to do at most.
        unit_size: captions a unit; a unit is finished whole or done anew.
        chat: model that writes grid prompts: ``embedded:NAME``, a folder or a hub id, ``openai:MODEL@BASE_URL`` (add
            ``#VARIABLE`` to name the environment variable of the key), or ``replay:FILE``.
        judge: model that describes panels and judges pairs, named likewise.
        templates: prompts for the judge: ``default`` (large models), ``compact`` (small ones; the embedded judge knows
            these alone), or a folder.
        writer_templates: prompts for ``chat`` and the text of the sheets, named likewise; empty for those of
            ``templates``.
        chain_of_thought: describe both subjects before deciding; otherwise decide at once.
        votes: how often each pair is judged; of several, which think at random, the majority decides.
        min_score: what is judged the same is kept from this score on (`dsd.data.records.Verdict`), in [0, 1]; 0 keeps
            all of it. `dsd curate calibrate` finds the score for a precision, `dsd curate rescore` sets another one
            afterwards without asking again.
        themes: scenes that every sheet shows in place of those that the chat model thinks of for it, one a panel; empty
            for its own. What training on few themes costs is one of the paper's ablations.
        subjects: with themes: subjects that take turns, in place of captions and what the chat model writes after them,
            so that the same few prompts are drawn again and again with other seeds; neither is used then. What training
            without captions and language model costs is another one.
        refuse_repeated: whether a grid prompt is refused whose subject, nearly, an earlier one of its unit has.
        chat_batch: questions asked at once of a local model, or in flight to a server.
        teacher: text-to-image model that draws the sheets: ``embedded:NAME``, a folder or a hub id.
        teacher_batch: sheets drawn at once.
        panel_size: height and width of a panel in pixels; a sheet has as many as the task lays out.
        steps: denoising steps of a sheet.
        true_guidance: classifier-free guidance scale of the teacher; 1 turns it off and halves the time.
        guidance: embedded guidance value, for guidance-distilled teachers; others ignore it.
        sheet_text_tokens: text tokens that a sheet's text is padded or cut to.
        references: panels that are given in an example.
        targets: panels to draw in it. With more than one of either, examples are films of panels that are all kept with
            one another.
        sheets_from: folder of another curation whose sheets are judged in place of drawing; its settings must be the
            same but for those of `JUDGED_BY`. Empty to draw.
        near_copy_threshold: two panels are the same picture, and rejected, when the mean absolute difference of
            their pixels is below this share of the full range, and their perceptual hashes agree too.
        image_format: of the panels in the dataset; PNG keeps all pixels, WebP and JPEG are smaller and lossy: WebP
            halves the resolution of colours, which small panels lose identity by, JPEG keeps it. Sheets are PNG.
        image_quality: of WebP and JPEG, from 1 to 100; None for 95, and for PNG, which has none.
        seed: of everything random.
    """

    task: str = DEFAULT
    captions: str
    units: int
    unit_size: int
    chat: str
    judge: str
    templates: str
    writer_templates: str = ""
    chain_of_thought: bool = True
    votes: int = 1
    min_score: float = 0.0
    themes: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    refuse_repeated: bool = False
    chat_batch: int = how_it_runs()
    teacher: str
    teacher_batch: int = how_it_runs()
    panel_size: int
    steps: int
    true_guidance: float
    guidance: float = 3.5
    sheet_text_tokens: int
    references: int = 1
    targets: int = 1
    sheets_from: str = ""
    near_copy_threshold: float = 0.03
    image_format: Literal["png", "webp", "jpeg"] = "png"
    image_quality: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (
            "units",
            "unit_size",
            "votes",
            "references",
            "targets",
            "chat_batch",
            "teacher_batch",
        ):
            require_within(name, getattr(self, name), 1)
        require_within("panel_size", self.panel_size, 1, _LARGEST_PANEL)
        require_within("steps", self.steps, 1, MOST_STEPS)
        require_within("sheet_text_tokens", self.sheet_text_tokens, 1, MOST_TEXT_TOKENS)
        require_within("true_guidance", self.true_guidance, 1, MOST_SCALE)
        require_within("guidance", self.guidance, -MOST_SCALE, MOST_SCALE)
        require_seeds("seed", self.seed)
        find(self.task)
        for chat in (self.chat, self.judge):
            model_of(chat)  # refuses addresses that hold a key, before they are kept or shown
        if self.themes and len(self.themes) != (panels := task_of(self.task).layout.panels):
            raise UserError(f"themes are {len(self.themes)} scenes, but a sheet has {panels}; give {panels} or none")
        if self.frames > 2 and self.frames > (most := task_of(self.task).most_frames):
            raise UserError(
                f"references are {self.references} and targets {self.targets}, but examples of the task "
                f"{self.task} have at most {most} frames; give fewer"
            )
        if self.subjects and not self.themes:
            raise UserError("subjects are given without themes; give the scenes too that they are drawn in")
        if not all(words.strip() for words in (*self.subjects, *self.themes)):
            raise UserError("one of the subjects or themes is empty; give words for each")
        if not 0 <= self.min_score <= 1:
            raise UserError(
                f"min_score is {self.min_score}, but must be a score in [0, 1] (0 keeps all that is the same)"
            )
        if not 0 <= self.near_copy_threshold < 1:
            raise UserError(f"near_copy_threshold is {self.near_copy_threshold}, but must be a share in [0, 1)")
        for name in ("captions", "chat", "judge", "templates", "writer_templates", "teacher", "sheets_from"):
            require_text(name, getattr(self, name))
        for name in ("subjects", "themes"):
            require_text(f"one of the {name}", "".join(getattr(self, name)))
        if self.image_quality is not None and not 1 <= self.image_quality <= 100:
            raise UserError(f"image_quality is {self.image_quality}, but must be from 1 to 100")
        if self.image_quality is not None and self.image_format == "png":
            raise UserError(
                f"image_quality is {self.image_quality}, but PNG keeps all pixels; leave it out, or give webp or jpeg "
                "as image_format"
            )

    @property
    def frames(self) -> int:
        """Of an example, references and targets together."""
        return self.references + self.targets

    @property
    def written_with(self) -> str:
        """The templates of whoever writes."""
        return self.writer_templates or self.templates

    def judged_as(self, other: CurateConfig) -> CurateConfig:
        """This config with all that another one says about judging: equal to that one if both draw the same sheets."""
        same_writer = self.writer_templates in ("", other.written_with)
        own = other.writer_templates if same_writer else self.writer_templates
        return replace(self, **{name: getattr(other, name) for name in JUDGED_BY}, writer_templates=own)

    @property
    def pictures(self) -> Pictures:
        """How pictures of panels are written."""
        from dsd.data.rows import PNG, Pictures

        return Pictures(self.image_format, PNG.quality if self.image_quality is None else self.image_quality)

    def claimed(self) -> CurateConfig:
        """What decides what is made: where the chat models are served does not."""
        from dsd.chat.registry import claimed_name

        return replace(self, chat=claimed_name(self.chat), judge=claimed_name(self.judge))


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig:
    """What a judge is asked to find out how far it can be trusted.

    Attributes:
        pairs: table (.csv, .tsv, .jsonl or .parquet) with the columns first, second (pictures, or names of files beside
            the table) and same (true or false), or a folder with one called metadata.
        judge: who is asked, as in a curation.
        templates: prompts for the judge, as in a curation.
        chain_of_thought: describe both subjects before deciding; otherwise decide at once.
        votes: how often each pair is judged.
        precision: share of the same that is wanted among what is kept.
        surely: want the lower end of the precision's 95 % interval to reach it, not the estimate alone.
        chat_batch: questions asked at once of a local model, or in flight to a server.
        seed: of everything random.
    """

    pairs: Path
    judge: str
    templates: str
    chain_of_thought: bool = True
    votes: int = 1
    precision: float = how_it_runs(0.95)
    surely: bool = how_it_runs(False)
    chat_batch: int = how_it_runs(64)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("votes", "chat_batch"):
            require_within(name, getattr(self, name), 1)
        if not 0 < self.precision <= 1:
            raise UserError(f"precision is {self.precision}, but must be a share in (0, 1], such as 0.95")
        require_seeds("seed", self.seed)
        for name in ("judge", "templates"):
            require_text(name, getattr(self, name))

    def claimed(self) -> CalibrateConfig:
        """What decides what is asked: where the judge is served does not."""
        from dsd.chat.registry import claimed_name

        return replace(self, judge=claimed_name(self.judge))
