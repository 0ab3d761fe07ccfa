"""Where the package's own files are."""

from pathlib import Path


def config_dir() -> str:
    """The folder of the Hydra configurations: beside `src/` in a checkout, inside the package in a wheel."""
    package = Path(__file__).resolve().parents[1]
    inside_wheel = package / "configs"
    return str(inside_wheel if inside_wheel.is_dir() else package.parents[1] / "configs")
