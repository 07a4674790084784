"""Pictures of a given individual in new scenes: diffusers-style pipelines."""
