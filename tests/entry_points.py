"""Import extract.py and its like, which lie beside the package and not in it."""

import importlib.util
import sys
from types import ModuleType

from badhands.home import ROOT


def load(name: str) -> ModuleType:
    """The module in `<checkout>/<name>.py`."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
