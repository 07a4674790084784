"""Draws the world: batches of panels by signed distances, with the depth and the light of every pixel.

Everything is torch on whole batches, so the same code runs on a CPU and on a GPU. Lengths are in half panels (a panel
spans [-1, 1]), y points down.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dsd_world.individuals import CHARACTERS, KINDS, PATTERNS, PLACES, Individuals, Scenes

PANEL_SIZE = 64
_CHUNK, _CHUNK_ON_GPU = 64, 2048  # panels painted together
_LIGHT_HEIGHT = 0.75  # z component of the light's direction: flat surfaces always receive 1
_SKY = ((0.55, 0.80, 0.98), (0.62, 0.82, 0.70), (0.80, 0.88, 0.96), (0.08, 0.08, 0.25),
        (0.90, 0.82, 0.70), (0.98, 0.85, 0.60), (0.70, 0.72, 0.78), (0.30, 0.60, 0.90))  # fmt: skip
_GROUND = ((0.93, 0.84, 0.60), (0.25, 0.45, 0.20), (0.96, 0.97, 1.00), (0.12, 0.20, 0.18),
           (0.55, 0.35, 0.22), (0.88, 0.65, 0.35), (0.40, 0.40, 0.43), (0.10, 0.30, 0.65))  # fmt: skip


@dataclass(frozen=True)
class Drawing:
    """What was drawn.

    Attributes:
        image: ``(n, 3, size, size)`` in [-1, 1].
        depth: ``(n, 1, size, size)`` in [0, 1], 0 is nearest.
        light: ``(n, 1, size, size)``, the factor that the light multiplies the surface's own colour with.
    """

    image: Float[Tensor, "n 3 size size"]
    depth: Float[Tensor, "n 1 size size"]
    light: Float[Tensor, "n 1 size size"]


def hsv(hue: Tensor, saturation: Tensor | float, value: Tensor | float) -> Float[Tensor, "n 3"]:
    """Colours in [0, 1] from hue, saturation and value, each ``(n,)`` in [0, 1]."""
    saturation, value = (torch.as_tensor(x, device=hue.device).expand_as(hue) for x in (saturation, value))
    offsets = torch.tensor([5.0, 3.0, 1.0], device=hue.device)
    k = (offsets + hue[:, None] * 6) % 6
    return value[:, None] * (1 - saturation[:, None].to(hue) * torch.minimum(k, 4 - k).clamp(0, 1))


class _Layers:
    """The picture while it is painted: albedo (3), surface normal (x, y) and depth, composited together."""

    def __init__(self, count: int, size: int, device: torch.device) -> None:
        axis = (torch.arange(size, device=device) + 0.5) / size * 2 - 1
        self.y, self.x = axis[:, None].expand(size, size), axis[None, :].expand(size, size)
        self.pixels = torch.zeros(count, 6, size, size, device=device)
        self.scale = size / 2

    def coverage(self, distance: Tensor) -> Float[Tensor, "n 1 size size"]:
        """Share of each pixel inside a shape, from its signed distance ``(n, size, size)`` in half panels."""
        return (0.5 - distance * self.scale).clamp_(0, 1)[:, None]

    def paint(
        self,
        rows: Tensor | slice,
        alpha: Float[Tensor, "m 1 size size"],
        color: Tensor,
        normal: tuple[Tensor, Tensor] | None = None,
        depth: float | Tensor | None = None,
    ) -> None:
        """Lays a shape over the picture.

        Args:
            rows: which panels.
            alpha: coverage in [0, 1].
            color: ``(m, 3)``, ``(3,)`` or ``(m, 3, size, size)`` in [0, 1].
            normal: x and y of the surface normal, each ``(m, size, size)``; flat when absent.
            depth: in [0, 1]; what lies below shows through when absent.
        """
        target = self.pixels[rows]
        color = color if color.ndim == 4 else color.reshape(-1, 3, 1, 1)
        target[:, :3].lerp_(color.expand_as(target[:, :3]), alpha)
        if depth is not None:
            surface = target[:, 3:]
            if normal is None:
                surface[:, :2].mul_(1 - alpha)
            else:
                surface[:, :2].lerp_(torch.stack(normal, 1), alpha)
            surface[:, 2:].lerp_(torch.as_tensor(depth).to(target).expand_as(alpha), alpha)
        if not isinstance(rows, slice):
            self.pixels[rows] = target


def _column(value: Tensor) -> Float[Tensor, "n 1 1"]:
    return value.view(-1, 1, 1)


def _paint_place(layers: _Layers, scenes: Scenes) -> None:
    x, y = layers.x, layers.y
    device = x.device
    sky, ground = torch.tensor(_SKY, device=device)[scenes.place], torch.tensor(_GROUND, device=device)[scenes.place]
    everything = slice(None)
    layers.paint(everything, torch.ones_like(layers.pixels[:, :1]), sky, depth=1.0)
    for number, place in enumerate(PLACES):
        rows = (scenes.place == number).nonzero()[:, 0]
        if len(rows) == 0:
            continue
        here = scenes.take(rows)
        across, phase = _column(here.prop * 1.4 - 0.7), _column(here.prop_phase)
        far = x + across + 4
        if place in ("beach", "night"):
            radius = 0.18 if place == "beach" else 0.2
            shape = torch.hypot(x - across, y + 0.65) - radius
            tone = torch.tensor([1.0, 0.9, 0.4] if place == "beach" else [0.95, 0.95, 0.8], device=device)
        elif place == "forest":
            shape = (y + 0.95 - 0.3 * phase) * -0.6 + (far % 0.8 - 0.4).abs()
            tone = torch.tensor([0.10, 0.35, 0.18], device=device)
        elif place == "snow":
            shape = (x - across).abs() * 0.9 - (y + 0.7)
            tone = torch.tensor([0.55, 0.62, 0.75], device=device)
        elif place == "desert":
            shape = 0.15 - y + 0.2 * torch.sin(x * 3 + phase * 6)
            tone = torch.tensor([0.93, 0.72, 0.42], device=device)
        elif place == "city":
            roof = 0.5 + 0.3 * torch.sin(torch.floor(far / 0.6) * 2.4)
            shape = torch.maximum((far % 0.6 - 0.3).abs() - 0.22, -(y + roof))
            tone = torch.tensor([0.45, 0.48, 0.58], device=device)
        elif place == "room":
            shape = torch.maximum((x - across).abs() - 0.28, (y + 0.45).abs() - 0.25)
            tone = torch.tensor([0.60, 0.85, 0.98], device=device)
        else:
            continue
        layers.paint(rows, layers.coverage(shape), tone, depth=0.9)
    horizon = _column(scenes.horizon)
    near = (1 - 0.5 * (y - horizon).clamp(min=0) / (1 - horizon))[:, None]
    layers.paint(everything, layers.coverage(horizon - y), ground, depth=near)
    rows = (scenes.place == PLACES.index("sea")).nonzero()[:, 0]
    if len(rows):
        phase = _column(scenes.prop_phase[rows])
        wave = ((y * 6 + 0.3 * torch.sin(x * 8 + phase * 6) + 9) % 1 - 0.5).abs() - 0.08 + (y < 0.4).float()
        layers.paint(rows, layers.coverage(wave) * 0.6, torch.tensor([0.7, 0.9, 1.0], device=device))


class _Subject:
    """The subject's own frame on some rows: shapes in its coordinates, colours, and painting with dome normals."""

    def __init__(self, layers: _Layers, individuals: Individuals, scenes: Scenes, rows: Tensor) -> None:
        self.layers, self.rows = layers, rows
        self.who, self.scenes = individuals.take(rows), scenes.take(rows)
        s = self.scenes
        self.lean = torch.where(self.who.is_object, s.lean * 0.4, s.lean)
        self.size = _column(s.size)
        dx = (layers.x - _column((s.position - 1) * 0.42 + s.shift_x)) / self.size
        dy = (layers.y - _column(0.25 + s.shift_y)) / self.size
        self.cos, self.sin = _column(self.lean.cos()), _column(self.lean.sin())
        self.x, self.y = self.cos * dx + self.sin * dy, self.cos * dy - self.sin * dx
        self.main = hsv(self.who.hue, self.who.saturation, self.who.value)
        self.second = hsv(self.who.second_hue, self.who.second_saturation, self.who.second_value)
        self.width, self.ears = _column(self.who.width), _column(self.who.ears)

    def subset(self, mask: Tensor) -> _Subject | None:
        """The rows of a mask as a subject of their own; None when there are none."""
        keep = mask.nonzero()[:, 0]
        if len(keep) == 0:
            return None
        part = object.__new__(_Subject)
        for name, value in vars(self).items():
            setattr(part, name, value[keep] if isinstance(value, Tensor) else value)
        part.who, part.scenes = self.who.take(keep), self.scenes.take(keep)
        return part

    def paint(self, distance: Tensor, color: Tensor, alpha: float = 1.0) -> None:
        """Paints a flat shape given by its signed distance in the subject's own units."""
        self.layers.paint(self.rows, self.layers.coverage(distance * self.size) * alpha, color, depth=0.4)

    def ellipse(self, x, y, rx, ry) -> Tensor:
        """Signed distance to an axis-parallel ellipse (first order)."""
        rx, ry = torch.as_tensor(rx).to(self.x), torch.as_tensor(ry).to(self.x)
        return (torch.hypot((self.x - x) / rx, (self.y - y) / ry) - 1) * torch.minimum(rx, ry)

    def box(self, x, y, rx, ry) -> Tensor:
        """Signed distance to an axis-parallel box (maximum norm)."""
        return torch.maximum((self.x - x).abs() - rx, (self.y - y).abs() - ry)

    def dome(self, distance: Tensor, x, y, rx, ry, color: Tensor, height: float = 0.1) -> None:
        """Paints a shape as a dome over the ellipse (x, y, rx, ry): its surface bends away from the middle."""
        qx, qy = ((self.x - x) / rx).clamp(-1, 1) * 0.7, ((self.y - y) / ry).clamp(-1, 1) * 0.7
        normal = (self.cos * qx - self.sin * qy, self.sin * qx + self.cos * qy)
        depth = (0.4 - height * (1 - qx * qx - qy * qy).clamp(min=0))[:, None]
        self.layers.paint(self.rows, self.layers.coverage(distance * self.size), color, normal, depth)

    def skin(self) -> Float[Tensor, "m 3 size size"]:
        """The main colour with the pattern of the second one."""
        who = self.who
        cos, sin, f = _column(who.angle.cos()), _column(who.angle.sin()), _column(who.frequency)
        along, across = self.x * cos + self.y * sin, self.y * cos - self.x * sin
        mask = torch.zeros_like(self.x)
        kinds = {name: (who.pattern == i).nonzero()[:, 0] for i, name in enumerate(PATTERNS)}
        r = kinds["striped"]
        mask[r] = (torch.sin(along[r] * f[r] * torch.pi) * 2.5).clamp(-1, 1) * 0.5 + 0.5
        r = kinds["spotted"]
        cell = torch.hypot((along[r] * f[r] * 0.6) % 1 - 0.5, (across[r] * f[r] * 0.6) % 1 - 0.5) * 2
        mask[r] = ((0.6 - cell) * 5 + 0.5).clamp(0, 1)
        r = kinds["bellied"]
        mask[r] = self.layers.coverage(self.ellipse(0.0, 0.26, 0.2 * self.width, 0.24)[r])[:, 0]
        r = kinds["halved"]
        mask[r] = (along[r] * 12 + 0.5).clamp(0, 1)
        return torch.lerp(self.main[:, :, None, None], self.second[:, :, None, None], mask[:, None])


def _paint_character(subject: _Subject) -> None:
    s, w, main, second = subject, subject.width, subject.main, subject.second
    s.paint(s.ellipse(0.0, 0.6, 0.42 * w, 0.07), torch.zeros_like(main), alpha=0.35)
    for side in (-1, 1):
        _paint_ears(subject, side)
    for side in (-1, 1):
        s.dome(s.ellipse(side * 0.18 * w, 0.57, 0.14 * w, 0.085), side * 0.18 * w, 0.57, 0.14 * w, 0.085, second * 0.8)
        s.dome(s.ellipse(side * 0.37 * w, 0.16, 0.09 * w, 0.2), side * 0.37 * w, 0.16, 0.09 * w, 0.2, main * 0.85)
    robot = _column(s.who.kind == CHARACTERS.index("robot"))
    body = torch.where(robot, s.box(0.0, 0.22, 0.31 * w, 0.33), s.ellipse(0.0, 0.22, 0.34 * w, 0.37))
    head = torch.where(robot, s.box(0.0, -0.38, 0.33 * w, 0.28), s.ellipse(0.0, -0.38, 0.37 * w, 0.32))
    skin = s.skin()
    s.dome(body, 0.0, 0.22, 0.34 * w, 0.37, skin)
    bellied = (s.who.pattern == PATTERNS.index("bellied")).view(-1, 1, 1, 1)
    s.dome(head, 0.0, -0.38, 0.37 * w, 0.32, torch.where(bellied, main[:, :, None, None], skin), height=0.15)
    eye = _column(s.who.eye_size)
    iris = hsv(s.who.eye_hue, 0.85, 0.55)
    for side in (-1, 1):
        s.paint(s.ellipse(side * 0.15 * w, -0.44, 0.09 * eye, 0.1 * eye), torch.ones_like(main))
        s.paint(s.ellipse(side * 0.15 * w, -0.43, 0.055 * eye, 0.065 * eye), iris)
    bird = s.subset(s.who.kind == CHARACTERS.index("bird"))
    if bird is not None:
        taper = ((-0.14 - bird.y) / 0.14).clamp(0, 1)
        beak = torch.maximum(bird.x.abs() - 0.12 * taper, torch.maximum(-(bird.y + 0.3), bird.y + 0.14))
        bird.paint(beak, torch.tensor([1.0, 0.7, 0.1], device=w.device))
    _paint_mouth(subject)
    _paint_accessory(subject)


def _paint_ears(subject: _Subject, side: int) -> None:
    for number, kind in enumerate(CHARACTERS):
        s = subject.subset(subject.who.kind == number)
        if s is None:
            continue
        w, e, main, second = s.width, s.ears, s.main, s.second
        if kind == "rabbit":
            s.dome(s.ellipse(side * 0.17 * w, -0.68 - 0.12 * e, 0.1, 0.26 * e),
                   side * 0.17 * w, -0.68 - 0.12 * e, 0.1, 0.26 * e, main)  # fmt: skip
            s.paint(s.ellipse(side * 0.17 * w, -0.68 - 0.12 * e, 0.045, 0.17 * e), second)
        elif kind == "bear":
            s.dome(s.ellipse(side * 0.28 * w, -0.64, 0.14 * e, 0.14 * e), side * 0.28 * w, -0.64, 0.14 * e, 0.14 * e,
                   second)  # fmt: skip
        elif kind == "cat":
            taper = ((s.y + 0.64 + 0.24 * e) / (0.34 * e)).clamp(0, 1)
            s.paint(torch.maximum((s.x - side * 0.23 * w).abs() - 0.17 * e * taper,
                                  torch.maximum(-(s.y + 0.64 + 0.24 * e), s.y + 0.3)), main)  # fmt: skip
        elif kind == "frog":
            s.dome(s.ellipse(side * 0.2 * w, -0.66, 0.16 * e, 0.15 * e), side * 0.2 * w, -0.66, 0.16 * e, 0.15 * e,
                   main)  # fmt: skip
        elif kind == "robot":
            s.paint(s.box(side * 0.16 * w, -0.62 - 0.1 * e, 0.035, 0.16 * e), main * 0.35)
            s.paint(s.ellipse(side * 0.16 * w, -0.64 - 0.25 * e, 0.075, 0.075), second)
        elif kind == "bird" and side == 1:
            s.dome(s.ellipse(0.0, -0.72 - 0.06 * e, 0.09 * e, 0.16 * e), 0.0, -0.72 - 0.06 * e, 0.09 * e, 0.16 * e,
                   second)  # fmt: skip


def _paint_mouth(subject: _Subject) -> None:
    s = subject.subset(subject.who.kind != CHARACTERS.index("bird"))
    if s is None:
        return
    mood = _column(s.scenes.mood)
    grin = torch.maximum(s.ellipse(0.0, -0.27, 0.2, 0.17), -(s.y + 0.27))
    frown = torch.maximum(s.ellipse(0.0, -0.08, 0.18, 0.16).abs() - 0.045, s.y + 0.14)
    gape = s.ellipse(0.0, -0.19, 0.1, 0.11)
    s.paint(torch.where(mood == 0, grin, torch.where(mood == 1, frown, gape)), torch.full_like(s.main, 0.1))


def _paint_accessory(subject: _Subject) -> None:
    for number, painter in enumerate((_paint_hat, _paint_scarf, _paint_bow), start=1):
        wearer = subject.subset(subject.who.accessory == number)
        if wearer is not None:
            painter(wearer, hsv(wearer.who.accessory_hue, 0.85, 0.9))


def _paint_hat(s: _Subject, color: Tensor) -> None:
    brim, crown = s.box(0.0, -0.63, 0.36 * s.width, 0.05), s.box(0.0, -0.78, 0.22 * s.width, 0.15)
    s.paint(torch.minimum(brim, crown), color)


def _paint_scarf(s: _Subject, color: Tensor) -> None:
    s.paint(torch.minimum(s.box(0.0, -0.06, 0.31 * s.width, 0.07), s.box(0.15, 0.12, 0.07, 0.16)), color)


def _paint_bow(s: _Subject, color: Tensor) -> None:
    spread = (s.x.abs() / 0.2).clamp(0.25, 1)
    wings = torch.maximum(s.x.abs() - 0.2, (s.y + 0.06).abs() - 0.11 * spread)
    s.paint(torch.minimum(wings, s.ellipse(0.0, -0.06, 0.06, 0.06)), color)


def _paint_mug(s: _Subject) -> None:
    w, e = s.width, s.ears
    ring = s.ellipse(0.44 * w, 0.12, 0.24 * e, 0.26 * e).abs() - 0.055
    s.paint(ring, s.second * 0.9)
    s.dome(s.box(0.0, 0.1, 0.44 * w, 0.48), 0.0, 0.1, 0.46 * w, 2.0, s.skin())
    s.paint(s.ellipse(0.0, -0.38, 0.44 * w, 0.1), s.main * 0.45)
    s.paint(s.ellipse(0.0, -0.36, 0.36 * w, 0.06), hsv(s.who.eye_hue, 0.7, 0.6))


def _paint_lamp(s: _Subject) -> None:
    w, e = s.width, s.ears
    s.paint(s.box(0.0, 0.1, 0.05, 0.45), s.second * 0.7)
    s.dome(s.ellipse(0.0, 0.55, 0.34 * w, 0.1), 0.0, 0.55, 0.34 * w, 0.1, s.second)
    slope = 0.24 + 0.3 * e * ((s.y + 0.8) / 0.75).clamp(0, 1)
    shade = torch.maximum(s.x.abs() - slope * w, torch.maximum(-(s.y + 0.8), s.y + 0.05))
    s.dome(shade, 0.0, -0.4, 0.5 * w, 2.0, s.skin())
    s.paint(s.ellipse(0.0, 0.15, 0.1, 0.1), hsv(s.who.eye_hue, 0.8, 0.65))


def _paint_car(s: _Subject) -> None:
    w, e = s.width, s.ears
    taper = ((s.y + 0.45 * e + 0.05) / (0.45 * e)).clamp(0, 1)
    cabin = torch.maximum(s.x.abs() - (0.22 + 0.14 * taper) * w, torch.maximum(-(s.y + 0.45 * e + 0.05), s.y - 0.05))
    s.dome(cabin, 0.0, 0.0, 0.5 * w, 0.7, s.second)
    s.paint(s.box(0.0, -0.2 * e - 0.02, 0.16 * w, 0.11 * e), torch.full_like(s.main, 0.9))
    s.dome(s.box(0.0, 0.22, 0.58 * w, 0.24), 0.0, 0.22, 0.8 * w, 0.5, s.skin())
    wheel = _column(s.who.eye_size) * 0.15
    for side in (-1, 1):
        s.paint(s.ellipse(side * 0.34 * w, 0.47, wheel, wheel), torch.full_like(s.main, 0.12))
        s.paint(s.ellipse(side * 0.34 * w, 0.47, wheel * 0.6, wheel * 0.6), hsv(s.who.eye_hue, 0.8, 0.7))


def _paint_object(subject: _Subject) -> None:
    subject.paint(subject.ellipse(0.0, 0.6, 0.5 * subject.width, 0.07), torch.zeros_like(subject.main), alpha=0.35)
    for kind, painter in (("mug", _paint_mug), ("lamp", _paint_lamp), ("car", _paint_car)):
        part = subject.subset(subject.who.kind == KINDS.index(kind))
        if part is not None:
            painter(part)


def _draw_chunk(individuals: Individuals, scenes: Scenes, size: int) -> Drawing:
    layers = _Layers(len(individuals), size, individuals.hue.device)
    _paint_place(layers, scenes)
    for mask, painter in ((~individuals.is_object, _paint_character), (individuals.is_object, _paint_object)):
        rows = mask.nonzero()[:, 0]
        if len(rows):
            painter(_Subject(layers, individuals, scenes, rows))
    albedo, normal, depth = layers.pixels[:, :3], layers.pixels[:, 3:5], layers.pixels[:, 5:]
    toward = torch.stack([scenes.light_azimuth.cos(), scenes.light_azimuth.sin()], 1) * (1 - _LIGHT_HEIGHT**2) ** 0.5
    upright = (1 - normal.square().sum(1, keepdim=True)).clamp(min=0).sqrt()
    received = ((normal * toward[:, :, None, None]).sum(1, keepdim=True) + upright * _LIGHT_HEIGHT).clamp(min=0)
    light = 1 + scenes.light_strength.view(-1, 1, 1, 1) * (received / _LIGHT_HEIGHT - 1)
    warmth = torch.tensor([0.06, 0.0, -0.06], device=light.device) * scenes.light_tint[:, None]
    image = (albedo * light * (1 + warmth[:, :, None, None])).clamp(0, 1) * 2 - 1
    return Drawing(image, depth, light)


@torch.no_grad()
def draw(individuals: Individuals, scenes: Scenes, size: int = PANEL_SIZE) -> Drawing:
    """Draws one panel a row: individual ``i`` in scene ``i``.

    Args:
        individuals: ``n`` of them.
        scenes: ``n`` of them.
        size: height and width in pixels.

    Returns:
        Images in [-1, 1], depth and light, on the device of the individuals.

    Raises:
        ValueError: when the two batches differ in length.
    """
    if len(individuals) != len(scenes):
        raise ValueError(f"got {len(individuals)} individuals and {len(scenes)} scenes, want as many of each")
    device = individuals.hue.device
    chunk = _CHUNK if device.type == "cpu" else _CHUNK_ON_GPU
    parts = [
        _draw_chunk(individuals.take(rows), scenes.take(rows), size)
        for rows in torch.arange(len(individuals), device=device).split(chunk)
    ]
    return Drawing(*(torch.cat([getattr(p, name) for p in parts]) for name in ("image", "depth", "light")))


def draw_panels(individuals: Individuals, scenes: Scenes, size: int = PANEL_SIZE) -> Float[Tensor, "n 3 size size"]:
    """The images of `draw` alone."""
    return draw(individuals, scenes, size).image


def landmarks(individuals: Individuals, scenes: Scenes) -> Float[Tensor, "n 5 2"]:
    """Where the eyes, the middle of the face and the corners of the mouth lie, as (x, y) in [-1, 1] of the panel.

    Left and right are the picture's. Rows of objects, which have no face, mean nothing.
    """
    w, zero = individuals.width, torch.zeros_like(individuals.width)
    x = torch.stack([-0.15 * w, 0.15 * w, zero, zero - 0.17, zero + 0.17], 1)
    y = torch.tensor([-0.44, -0.44, -0.3, -0.19, -0.19], device=x.device).expand_as(x)
    cos, sin, size = (value[:, None] for value in (scenes.lean.cos(), scenes.lean.sin(), scenes.size))
    across = (cos * x - sin * y) * size + ((scenes.position - 1) * 0.42 + scenes.shift_x)[:, None]
    down = (sin * x + cos * y) * size + (0.25 + scenes.shift_y)[:, None]
    return torch.stack([across, down], 2)


def panel_numbers(individual: Int[Tensor, "n"], panels: int) -> Int[Tensor, "n panels"]:
    """The scene numbers that belong to an individual: ``panels`` consecutive ones, shared with nobody."""
    return individual[:, None] * panels + torch.arange(panels, device=individual.device)
