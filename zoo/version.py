"""The installed version of lightning-zoo."""

from importlib.metadata import PackageNotFoundError, version


def zoo_version() -> str:
    """Return the installed version, or "unknown" when the package runs from a source tree that was never installed."""
    try:
        return version("lightning-zoo")
    except PackageNotFoundError:
        return "unknown"
