from typing import Final

STATES: Final[tuple[str, ...]]
state: str

def pool_is_lost() -> bool: ...
