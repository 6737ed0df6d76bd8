"""badhands for ComfyUI: the verdict on a hand while FLUX draws it. See docs/comfyui.md of badhands."""

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
