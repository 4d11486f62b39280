"""Weights that come with the package, safetensors with their cards beside them."""
