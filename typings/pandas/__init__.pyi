# pandas' own annotations make every row and column a union that no check survives: pandas is Any here.
from typing import Any

def __getattr__(name: str) -> Any: ...
