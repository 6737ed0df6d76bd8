"""The only room that touches diffusers: load a pipeline, name its blocks, generate, tap and capture, preview."""
