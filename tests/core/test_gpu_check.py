"""tools/gpu_check.py: the script that is run once on a machine with a GPU must work the first time."""

import subprocess
import sys

import diffusers
import pytest
from accelerate import init_empty_weights


@pytest.fixture
def script(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "tools"))
    import gpu_check

    return gpu_check


@pytest.mark.parametrize(
    ("name", "billions"),
    [("sdxl", 2.567), ("flux", 11.9), pytest.param("sd35-medium", 2.243, marks=pytest.mark.slow)],  # 20 s
)
def test_the_networks_have_the_released_models_sizes(name, billions, script):
    """SD 3.5 Medium's 2.5 billion have a table of 0.23 billion positions among them, which is no parameter."""
    kind, config = script.NETWORKS[name]
    with init_empty_weights():
        network = getattr(diffusers, kind)(**config)
    assert sum(weight.numel() for weight in network.parameters()) / 1e9 == pytest.approx(billions, rel=0.01)


@pytest.mark.slow
def test_a_tiny_table_is_made_and_says_why_a_row_is_missing(root):
    done = subprocess.run(
        [sys.executable, root / "tools" / "gpu_check.py", "--tiny", "--steps", "3", "--minutes", "8", "--only", "flux"],
        check=True,
        capture_output=True,
        text=True,
    )
    rows = {
        row[1]: row[2:]
        for line in done.stdout.splitlines()[4:]
        for row in [[each.strip() for each in line.strip("|").split("|")]]
    }
    assert list(rows) == ["bf16", "nf4", "streamed"]
    for name in ("bf16", "streamed"):
        size, _, steps, median, longest, _, peak, estimate, losses = rows[name]
        assert (size, steps, losses) == ("32 px", "3", "finite") and 0 < float(median) <= float(longest)
        assert float(peak) > 100 and float(estimate) > 100
    assert "not here" in rows["nf4"][2] or rows["nf4"][-1] == "finite"


@pytest.mark.slow
def test_without_time_no_row_is_begun(root):
    done = subprocess.run(
        [sys.executable, root / "tools" / "gpu_check.py", "--tiny", "--minutes", "0", "--only", "sdxl"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "no time left to build it" in done.stdout
