"""Setting up JAX before anything is computed: where, and with which compilation cache."""

from __future__ import annotations

import hashlib
import os
import platform
import warnings
from pathlib import Path

from latflow.errors import LatflowError

CACHE_VARIABLE = "LATFLOW_CACHE"
_MAX_CACHE_BYTES = 1 << 30


def cache_directory() -> Path | None:
    """Where compiled programs are kept between runs: $LATFLOW_CACHE ("off" for nowhere), else the user's cache directory."""
    chosen = os.environ.get(CACHE_VARIABLE, "")
    if chosen.lower() in ("off", "0", "none"):
        return None
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "latflow" / "jax"


def configure(device: str) -> None:
    """Choose the device ("auto", "cpu" or "gpu") and switch on float64, which log weights always need.

    Raises LatflowError if the device does not exist.
    """
    import jax

    if device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    _enable_cache()
    try:
        backend = jax.default_backend()
    except RuntimeError as error:
        raise LatflowError(f"JAX found no usable device: {error}", "run with --device cpu") from error
    if device == "gpu" and backend != "gpu":
        raise LatflowError(
            f"no GPU is available to JAX (it sees {', '.join(sorted({d.platform for d in jax.devices()}))} only)",
            "install a GPU build of jax (see its installation guide), or run with --device cpu",
        )


def _enable_cache() -> None:
    import jax

    base = cache_directory()
    if base is None:
        return
    directory = base / _machine_tag()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:  # a read-only home is no reason to fail
        return
    if os.access(directory, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(directory))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.02)
        jax.config.update("jax_compilation_cache_max_size", _MAX_CACHE_BYTES)
        # an entry torn by a kill, or one that does not fit on the disk, costs a compilation and nothing else
        warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache entry")


def _machine_tag() -> str:
    """Programs are compiled for one processor; a home directory may be shared by several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        features = platform.processor()
    return hashlib.sha256(f"{platform.machine()} {features}".encode()).hexdigest()[:12]


def describe() -> dict[str, object]:
    """The device in words, for the provenance record."""
    import jax

    devices = jax.devices()
    return {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)}
