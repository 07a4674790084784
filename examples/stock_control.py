"""The student's adapter in stock diffusers: FluxControlPipeline draws what our pipeline draws with both guidances off.

python examples/stock_control.py reference.png "a red striped cat on the left at sea"
"""

import sys

import torch
from diffusers import FluxControlPipeline

from dsd.backbones.stock import side_by_side
from dsd.generate.two_frame import TwoFramePipeline
from dsd.images import load_image
from dsd.models import resolve

BASE, ADAPTER = resolve("embedded:tiny-flux"), resolve("embedded:tiny-student")
reference, prompt = load_image(sys.argv[1]).resize((64, 64)), sys.argv[2]
steps, size, tokens = 16, 64, 16

ours = TwoFramePipeline.from_pretrained(BASE, adapter=ADAPTER)
latents = ours(
    prompt,
    reference,
    text_scale=1.0,
    image_scale=1.0,
    num_inference_steps=steps,
    generator=torch.Generator().manual_seed(0),
    output_type="latent",
).images
condition = ours.backbone.control_tokens(ours.condition(reference))

stock = FluxControlPipeline.from_pretrained(BASE, dtype=torch.float32)
stock.load_lora_weights(ADAPTER, weight_name="adapter.safetensors")
stock.fuse_lora()
canvas = stock(
    prompt,
    control_image=condition,
    height=size,
    width=2 * size,
    num_inference_steps=steps,
    max_sequence_length=tokens,
    generator=torch.Generator().manual_seed(0),
    output_type="latent",
).images
theirs = FluxControlPipeline._unpack_latents(canvas, size, 2 * size, stock.vae_scale_factor)
print(f"largest difference of the latents, reference and target: {(theirs - side_by_side(latents)).abs().max():.2e}")
