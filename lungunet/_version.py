"""Our version, and those of what we stand on, in a place that costs nothing to import."""

__version__ = "0.1.0"

PACKAGES = (
    *("torch", "torchvision", "segmentation-models-pytorch", "timm", "albumentations"),
    *("opencv-python-headless", "numpy"),
)


def installed(package: str) -> str | None:
    """Return the version of a package; None where it is not installed under that name."""
    from importlib.metadata import PackageNotFoundError, version  # slow to import

    try:
        return version(package)
    except PackageNotFoundError:  # conda and others install some under other names
        return None
