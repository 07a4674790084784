"""tiny-flux is a stock FluxPipeline: draws a panel and a sheet without any code of this project.

python examples/stock_flux.py src/dsd_world/weights/tiny-flux
"""

import sys

import torch
from diffusers import FluxPipeline

PANEL = "a green spotted rabbit with a scarf smiling on the left at the beach"
SHEET = (
    "a 2x2 grid of the same blue striped cat with a hat: smiling on the left at the beach; "
    "sad in the middle in the snow; surprised on the right at night; smiling in the middle in the forest"
)

pipe = FluxPipeline.from_pretrained(sys.argv[1])
for name, prompt, size, tokens in (("panel", PANEL, 64, 16), ("sheet", SHEET, 128, 48)):
    picture = pipe(
        prompt,
        negative_prompt="",
        true_cfg_scale=2.0,
        height=size,
        width=size,
        num_inference_steps=20,
        max_sequence_length=tokens,
        generator=torch.Generator().manual_seed(0),
    ).images[0]
    picture.resize((4 * size, 4 * size), 0).save(f"stock_{name}.png")
    print(f"stock_{name}.png: {prompt}")
