"""Configuration files against an independent reader, latqcdtools, which shares no code with this package.

    python benchmarks/confirm_files.py write DIRECTORY     with latflow installed
    python benchmarks/confirm_files.py check DIRECTORY     with latqcdtools installed

`make confirm` does both, the second in an environment of its own. Prints one line per file; the second exits with status 1 if
a link, the plaquette or the link trace differs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

NS, NT = 4, 6  # the other reader wants a cube in space


def write(directory: Path) -> None:
    """Random links in every format both know."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    from latflow.groups import SUN
    from latflow.io.ildg import write_ildg
    from latflow.io.nersc import write_nersc
    from latflow.lattice import Geometry
    from latflow.observables import find

    group, geometry = SUN(3), Geometry((NT, NS, NS, NS))
    links = np.asarray(group.haar(jax.random.key(1), (4, *geometry.shape), jnp.complex128))
    plaquette = float(find("plaquette").evaluate(group, geometry, jnp.asarray(links)))
    directory.mkdir(parents=True, exist_ok=True)
    np.savez(directory / "expected.npz", links=links, plaquette=plaquette)
    for bits in (32, 64):
        exact = links.astype(np.complex64) if bits == 32 else links
        write_ildg(directory / f"ildg{bits}.lime", exact)
        for rows in (2, 3):
            write_nersc(directory / f"nersc{bits}_{rows}", exact, rows=rows)


def check(directory: Path) -> int:
    """0 if latqcdtools finds the same links everywhere."""
    from latqcdtools.interfaces.confReader import ILDGReader, NERSCReader  # pyright: ignore[reportMissingImports]

    with np.load(directory / "expected.npz", allow_pickle=False) as expected:
        links, plaquette = expected["links"], float(expected["plaquette"])
    failed = 0
    for path in sorted(p for p in directory.iterdir() if p.suffix != ".npz"):
        reader = (ILDGReader if path.suffix == ".lime" else NERSCReader)(NS, NT)
        field = reader.readConf(str(path))
        worst = 0.0
        for mu, t, x, y, z in np.ndindex(links.shape[2:]):
            found = np.asarray(field.getLink(x, y, z, t, (mu - 1) % 4))
            worst = max(worst, float(np.abs(found - links[:, :, mu, t, x, y, z]).max()))
        trace = np.einsum("ii...->...", links).real.mean() / 3
        off = max(abs(field.getPlaquette() - plaquette), abs(field.getLinkTrace() - trace))
        good = max(worst, off) < (1e-6 if "32" in path.name else 1e-13)
        failed += not good
        print(f"{path.name:<12} links within {worst:.1e}, plaquette and trace within {off:.1e}  {'ok' if good else 'DIFFERS'}")
    return int(failed > 0)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("write", "check"):
        raise SystemExit(__doc__)
    sys.exit({"write": write, "check": check}[sys.argv[1]](Path(sys.argv[2])))
