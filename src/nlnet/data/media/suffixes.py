"""File name suffixes, of two kinds: what a shard may hold, and what `prepare` can make shards from.

Members of a shard are read by every later version, and by everybody's WebDataset tools, so they are few. Source files
are opened once, by `prepare`, which re-encodes videos: whatever FFmpeg reads will do.
"""

VIDEO_MEMBERS = ("mp4", "webm", "mkv", "mov", "avi")
IMAGE_MEMBERS = ("jpg", "jpeg", "png")
IMAGE_FORMATS = {"JPEG": "jpg", "PNG": "png"}  # Pillow's name of a format -> the suffix of its member

VIDEO_FILES = frozenset(
    {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"}
)
IMAGE_FILES = frozenset(f".{suffix}" for suffix in IMAGE_MEMBERS)  # copied as they are
