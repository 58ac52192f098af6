"""Sizes in bytes, and how far an estimate of one was off, as a person reads them."""


def size(count: float | None) -> str:
    """Bytes with the unit that fits, in powers of 1024: "512 bytes", "9.5 KiB", "1.2 GiB"; "–" when unknown."""
    if count is None:
        return "–"
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def off_by(estimated: float, found: float) -> str:
    """How far an estimate was off, after "was": "right", "8 % too high"; both in the same unit, above 0."""
    off = estimated / found - 1
    return "right" if abs(off) < 0.005 else f"{100 * abs(off):.0f} % too {'high' if off > 0 else 'low'}"
