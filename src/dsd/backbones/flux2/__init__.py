"""FLUX.2 klein: frames in sequence, each with a time of its own."""
