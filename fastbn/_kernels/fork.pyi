from typing import Final

STATES: Final[tuple[str, ...]]
state: str
