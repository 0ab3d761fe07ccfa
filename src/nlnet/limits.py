"""What input from strangers may ask for: each limit with its name, its default and the words of its refusal.

A limit is checked before anything is allocated for a claim. Each is raised by an environment variable of its name, such
as NLNET_MAX_SAMPLE_BYTES=2000000000.
"""

import os
from dataclasses import dataclass

from nlnet.errors import UserError

MIB = 1 << 20


class TooLarge(UserError):
    """Something beyond a limit. The message says which one, and how to raise it."""

    cause = "too large"


@dataclass(frozen=True)
class Limit:
    """A limit.

    Args:
        name: of the environment variable, after NLNET_MAX_.
        default: the most that is allowed without it.
        unit: of both.
        what: has so many.
    """

    name: str
    default: int
    unit: str
    what: str

    @property
    def variable(self) -> str:
        """The environment variable that raises it."""
        return f"NLNET_MAX_{self.name}"

    @property
    def most(self) -> int:
        """The most that is allowed. Raises UserError where the environment variable is no whole number from 1."""
        text = os.environ.get(self.variable)
        if text is None:
            return self.default
        if not (text.isascii() and text.isdigit() and 0 < len(text) < 19 and int(text)):
            raise UserError(f"{self.variable}={text}: expected a whole number of {self.unit} from 1")
        return int(text)

    def check(self, amount: int, where: object = "") -> None:
        """Raises TooLarge where `amount` is more than is allowed; `where` is said first."""
        if amount > self.most:
            raise self.excess(where, amount)

    def excess(self, where: object = "", amount: int | None = None) -> TooLarge:
        """The refusal, also where all that is known is that it is more."""
        most = self.most
        said = f"more than {most:,}" if amount is None else f"{amount:,}"
        enough = "N" if amount is None else amount
        return TooLarge(
            f"{where}{': ' if where else ''}{self.what} of {said} {self.unit}, at most {most:,} are allowed;"
            f" if you trust it, set {self.variable}={enough}"
        )

    def check_unpacked(self, amount: int, packed: int, where: object = "") -> None:
        """Raises TooLarge for what unpacks to more than is allowed and to more than 16 times its own size."""
        self.check(0 if amount <= _RATIO * packed else amount, where)


_RATIO = 16

SCALED = 8
"""Times `PIXELS` that a JPEG may have which is scaled while it is decoded: no more than `PIXELS` are ever in memory."""

PIXELS = Limit("PIXELS", 1 << 24, "pixels", "a picture")  # 4,096 x 4,096
FRAMES = Limit("FRAMES", 1 << 20, "frames", "a video")  # almost ten hours at 30 frames per second
MASKS = Limit("MASK_PIXELS", 512 * MIB, "pixels", "an image's masks together")
OUTLINE = Limit("OUTLINE_PIXELS", 1 << 22, "pixels", "an object's border")
SAMPLE = Limit("SAMPLE_BYTES", 384 * MIB, "bytes", "a sample or media file")
ANNOTATIONS = Limit("ANNOTATION_BYTES", 768 * MIB, "bytes", "a file of annotations")
ANNOTATION_MEMORY = Limit("ANNOTATION_MEMORY_BYTES", 6144 * MIB, "bytes", "annotations in memory")
MANIFEST = Limit("MANIFEST_BYTES", 128 * MIB, "bytes", "a manifest")
SHARD = Limit("SHARD_BYTES", 640 * MIB, "bytes", "a shard that has to be read whole")
SAMPLES = Limit("SAMPLES", 4_000_000, "samples", "a manifest")
SHARDS = Limit("SHARDS", 1_000_000, "shards", "a set")
CLASSES = Limit("CLASSES", 1 << 15, "classes", "a set")
TEXT = Limit("TEXT_BYTES", 4 * MIB, "bytes", "a text file")
SETTINGS = Limit("SETTINGS_BYTES", MIB // 2, "bytes", "a configuration")
PARTS = Limit("SETTINGS_PARTS", 1 << 17, "letters and values", "a setting")
NESTING = Limit("NESTING", 64, "levels", "nesting")
UNPACKED = Limit("UNPACKED_BYTES", 640 * MIB, "bytes", "content")
TAR_HEADER = Limit("TAR_HEADER_BYTES", 64 << 10, "bytes", "an extended tar header")
ARCHIVE = Limit("ARCHIVE_ENTRIES", 1 << 17, "entries", "an archive")
WEIGHTS = Limit("WEIGHTS_BYTES", 4096 * MIB, "bytes", "a pickled file of weights")
PICKLE = Limit("PICKLE_STEPS", 1 << 20, "steps", "a pickle")
PICKLE_WEIGHT = Limit("PICKLE_WEIGHT", 1 << 20, "parts", "a value in a pickle")

LIMITS = tuple(value for value in list(globals().values()) if isinstance(value, Limit))
"""All of them."""
