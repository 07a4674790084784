"""The plan of a curation in words: what it takes by name, and every assumption as a sentence."""

from __future__ import annotations

import os
from dataclasses import dataclass

from dsd.curate import cost
from dsd.curate.config import CurateConfig
from dsd.curate.past import BYTES_PER_PIXEL, Past, RowBytes, estimated_rows
from dsd.curate.trial import Trial
from dsd.log import duration

_SERVED = ("openai:", "replay:")


@dataclass(frozen=True, kw_only=True)
class Means:
    """What there is to curate with.

    Attributes:
        gpus: of each machine.
        machines: how many.
        tflops: peak of a device in 10^12 operations a second.
        utilization: share of the peak that drawing reaches.
        reply_seconds: that a server takes for a reply.
        gpu_hour_price: of one device; None where nothing is said in money.
        million_tokens_price: of a million tokens given, and replied, by servers; None likewise.
    """

    gpus: int
    machines: int
    tflops: float
    utilization: float
    reply_seconds: float
    gpu_hour_price: float | None
    million_tokens_price: tuple[float, float] | None

    @property
    def devices(self) -> int:
        """Of all machines together."""
        return self.gpus * self.machines


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A plan.

    Attributes:
        rows: name and value, in order.
        assumptions: a sentence each.
        seconds: of wall time.
        disk: bytes.
        amounts: of everything that is counted.
    """

    rows: tuple[tuple[str, str], ...]
    assumptions: tuple[str, ...]
    seconds: float
    disk: float
    amounts: cost.Amounts


@dataclass(frozen=True, kw_only=True)
class _Time:
    """Seconds of one device that computes, and of the whole."""

    device: float
    wall: float
    told_by: tuple[str, ...]


def estimate(
    config: CurateConfig, wanted: int | None, past: Past, means: Means, trial: Trial | None, untried: str = ""
) -> Estimate:
    """Plans a curation.

    Args:
        config: of it.
        wanted: rows to train on; None for what its own units give.
        past: what it is planned by.
        means: to do it with.
        trial: on this machine, if there was one.
        untried: why there was none, as the rest of a sentence.

    Raises:
        UserError: the teacher's configs or the templates cannot be found.
    """
    amount = cost.amounts(config, wanted, past.funnel)
    operations = 0.0 if config.sheets_from else amount.sheets * cost.teacher_operations(config)
    time = _timed(config, amount, means, trial) if trial else _counted(config, amount, means, operations, untried)
    rows, sized = _sizes(config, past, trial)
    size = cost.disk(amount, rows)
    asked = cost.tokens(config, amount)
    money, priced = _money(config, asked["chat"], asked["judge"], time.device, means)
    on = "GPU" if trial is None or trial.device == "cuda" else trial.device.upper()
    named = [
        *_rows(config, amount),
        ("teacher arithmetic", f"{operations:.3g} operations"),
        (f"{on}-hours", f"{time.device / 3600:,.3g}"),
        *_told(config, "writer", asked["chat"], config.chat),
        *_told(config, "judge", asked["judge"], config.judge),
        *money,
        ("disk", bytes_in_words(size)),
        ("wall time", f"{duration(time.wall)} with {means.gpus} device(s) on each of {means.machines} machine(s)"),
    ]
    return Estimate(
        rows=tuple(named),
        assumptions=(_yield(config, past), *time.told_by, *_about_tokens(config), *priced, sized),
        seconds=time.wall,
        disk=size,
        amounts=amount,
    )


def bytes_in_words(count: float) -> str:
    """A size in the unit that suits it."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def _rows(config: CurateConfig, amount: cost.Amounts) -> list[tuple[str, str]]:
    votes = f" ({config.votes} votes each)" if config.votes > 1 else ""
    drawn = "sheets taken" if config.sheets_from else "sheets drawn"
    made = [("films to train on", f"{amount.films:,}")] if config.frames > 2 else []
    return [
        ("captions", f"{amount.captions:,} in {amount.units:,} units: --curate.units {amount.units}"),
        ("grid-prompt calls", f"{amount.writes:,}"),
        (drawn, f"{amount.sheets:,}"),
        ("sheets cut", f"{amount.cut:,}"),
        ("description calls", f"{amount.panels:,}"),
        ("candidates", f"{amount.candidates:,}"),
        ("judge calls", f"{amount.judgements:,}{votes}"),
        ("candidates kept", f"{amount.kept:,}"),
        ("pairs to train on" if config.frames == 2 else "pairs", f"{amount.pairs:,}"),
        *made,
    ]


def _told(config: CurateConfig, who: str, asked: cost.Tokens, model: str) -> list[tuple[str, str]]:
    if not asked.given:
        return []
    said = f"{asked.given / 1e6:,.3g} M in, {asked.replied / 1e6:,.3g} M out"
    return [(f"tokens of the {who}", f"{said} ({model.partition('@')[0]})")]


def _yield(config: CurateConfig, past: Past) -> str:
    funnel, of = past.funnel, "films" if config.frames > 2 else "pairs"
    each = cost.examples_of(funnel, config) / funnel.captions
    return (
        f"a caption gives {each:.3g} {of}, and {funnel.kept / funnel.candidates:.0%} of the candidates are kept, "
        f"{past.told_by}"
    )


def _timed(config: CurateConfig, amount: cost.Amounts, means: Means, trial: Trial) -> _Time:
    device = amount.captions * sum(trial.seconds.values())
    stages = ", ".join(f"{stage} {seconds:.3g} s" for stage, seconds in trial.seconds.items())
    told = [
        f"each caption takes as long as in a calibration that was run just now, of {trial.captions} captions on this "
        f"machine's {trial.device} ({stages}), stages take turns, and models are loaded in {trial.start:.3g} s"
    ]
    if trial.device == "cpu":
        told.append(
            f"the machine is as busy as it was then, when the calibration kept {trial.cores:.2g} of "
            f"{os.cpu_count()} cores at work"
        )
    if trial.own_captions:
        told.append(f'"{config.captions}" is not there, so the calibration took captions of its own')
    if means.devices > 1:
        told.append(f"each of {means.devices} devices is as fast as this machine's, and none waits for another")
    return _Time(device=device, wall=trial.start + device / means.devices, told_by=tuple(told))


def _counted(config: CurateConfig, amount: cost.Amounts, means: Means, operations: float, untried: str) -> _Time:
    device = operations / (means.tflops * 1e12 * means.utilization)
    told = [f"nothing was calibrated on this machine: {untried}"] if untried else []
    told += [
        f"the teacher reaches {means.utilization:.0%} of {means.tflops:g} TFLOP/s (--utilization, --tflops); "
        f"{config.steps} steps of {cost.branches(config)} evaluation(s) are counted, text encoders and the autoencoder "
        "are not"
    ]
    if means.devices > 1:
        told.append(f"{means.devices} devices share the sheets, and none waits for another")
    walls = [device / means.devices]
    for who, model, calls in (
        ("writer", config.chat, amount.writes),
        ("judge", config.judge, amount.panels + amount.judgements),
    ):
        if not calls:
            continue
        if not model.startswith(_SERVED):
            told.append(f"the time of {model}, which computes here as the {who}, is not known and not counted")
            continue
        walls.append(calls * means.reply_seconds / (config.chat_batch * means.machines))
        told.append(
            f"the {who}'s server takes {means.reply_seconds:g} s for a reply (--reply-seconds), with "
            f"{config.chat_batch} questions in flight from each machine (--curate.chat-batch)"
        )
    told.append("stages overlap, so the slowest decides the wall time")
    return _Time(device=device, wall=max(walls), told_by=tuple(told))


def _about_tokens(config: CurateConfig) -> tuple[str, ...]:
    return (
        f"a token is {cost.LETTERS_OF_A_TOKEN} letters of a template, a panel of {config.panel_size} pixels is "
        f"{cost.picture_tokens(config)} tokens, and a reply has {cost.REPLY_SHARE:.0%} of those that its template "
        "allows",
        "no question is asked twice, and none fails",
    )


def _money(
    config: CurateConfig, written: cost.Tokens, judged: cost.Tokens, seconds: float, means: Means
) -> tuple[list[tuple[str, str]], list[str]]:
    """What it costs where prices are known, and what they are taken for."""
    if means.gpu_hour_price is None and means.million_tokens_price is None:
        return [], ["no prices are given, so nothing is said of money (--gpu-hour-price, --million-tokens-price)"]
    parts, told = {}, []
    if means.gpu_hour_price is None:
        told.append("the devices' hours are not in the money (--gpu-hour-price)")
    else:
        parts["devices"] = seconds / 3600 * means.gpu_hour_price
    if means.million_tokens_price is None:
        told.append("the chat models' tokens are not in the money (--million-tokens-price)")
    else:
        given, replied = means.million_tokens_price
        asked = [(config.chat, written), (config.judge, judged)]
        paid = [tokens for model, tokens in asked if model.startswith("openai:")]
        parts["tokens"] = sum(one.given * given + one.replied * replied for one in paid) / 1e6
        told.append("all chat models behind servers have the same price of tokens, and others none")
    of = ", ".join(f"{name} {value:,.2f}" for name, value in parts.items())
    return [("money", f"{sum(parts.values()):,.2f} ({of}), in the prices' currency")], told


def _sizes(config: CurateConfig, past: Past, trial: Trial | None) -> tuple[RowBytes, str]:
    """How large rows are, and how that is known."""
    if past.rows is not None:
        return past.rows, f"rows are as large as those measured beside the funnel: {_pair_of(past.rows)}"
    if trial is not None:
        return trial.rows, f"rows are as large as those that the calibration wrote: {_pair_of(trial.rows)}"
    rows = estimated_rows(config)
    per_pixel = BYTES_PER_PIXEL[config.image_format]
    return rows, (
        f"a panel's {config.image_format.upper()} takes {per_pixel:g} bytes a pixel and a sheet's PNG "
        f"{BYTES_PER_PIXEL['png']:g}, as photographs do, so {_pair_of(rows)}; none were measured (--funnel FOLDER)"
    )


def _pair_of(rows: RowBytes) -> str:
    return f"{bytes_in_words(rows.pairs)} a pair, {bytes_in_words(rows.grids)} a sheet"
