"""What positions attend to in a network's non-local blocks: as a page, as pictures, and in numbers."""

from nlnet.attention.explanation import Explanation, explain

__all__ = ["Explanation", "explain"]
