"""FLUX.1: frames side by side on one canvas."""
