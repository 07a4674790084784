"""How fast a run is: milliseconds a sample, operations a second, memory."""

from __future__ import annotations

import time

import torch

SPEED = "speed_"
"""How the names of all figures of speed begin."""
PEAKS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "4090": 165.0, "3090": 71.0, "A10": 125.0}
"""TFLOP/s of dense matrix products in bfloat16, of the makers' sheets, by a part of the device's name."""


class Meter:
    """Times the steps of one process.

    Args:
        samples: of an optimizer step, over all processes.
        operations: of an optimizer step in this process.
        device: that it computes on.
    """

    def __init__(self, samples: int, operations: float, device: torch.device) -> None:
        self._samples, self._operations, self._device = samples, operations, device
        self._since, self._steps = time.perf_counter(), -1  # the first step is not timed

    def step(self) -> None:
        """Notes that a step is over."""
        self._steps += 1
        if self._steps == 0:
            self.pause()

    def pause(self) -> None:
        """Leaves out what came since the last figures, such as an evaluation."""
        self._since, self._steps = time.perf_counter(), 0

    def figures(self) -> dict[str, float]:
        """Of the steps since the last figures; empty where there were none.

        Returns:
            ``speed_ms_a_sample`` over all processes; ``speed_tflops`` of this process, recomputation included, and
            where its peak is known ``speed_share_of_peak``; ``speed_peak_gib`` of a GPU's memory.
        """
        if self._steps < 1:
            return {}
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        seconds = (time.perf_counter() - self._since) / self._steps
        self.pause()
        found = {"speed_ms_a_sample": 1000 * seconds / self._samples}
        if self._operations:
            found["speed_tflops"] = self._operations / seconds / 1e12
        if self._device.type == "cuda":
            name = torch.cuda.get_device_name(self._device)
            peak = next((peak for part, peak in PEAKS.items() if part in name), None)
            if peak is not None and self._operations:
                found["speed_share_of_peak"] = found["speed_tflops"] / peak
            found["speed_peak_gib"] = torch.cuda.max_memory_allocated(self._device) / 2**30
        return found

    @staticmethod
    def words(figures: dict[str, float]) -> str:
        """Figures on one line of a console, those that there are."""
        shown = {
            "loss": "loss {:.4f}",
            "held_out_identity": "identity {:.2f}",
            "held_out_prompt_following": "prompt following {:.2f}",
            "speed_ms_a_sample": "{:.3g} ms a sample",
            "speed_tflops": "{:.3g} TFLOP/s",
            "speed_share_of_peak": "{:.0%} of the peak",
            "speed_peak_gib": "{:.1f} GiB",
        }
        return ", ".join(form.format(figures[name]) for name, form in shown.items() if name in figures)
