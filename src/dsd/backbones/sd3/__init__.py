"""Stable Diffusion 3 and 3.5: frames side by side on one canvas, the patch embedding a convolution."""
