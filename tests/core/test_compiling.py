"""`compile`: which blocks, what is told, and that training is the same. torch's own code generator takes minutes, so it runs only when asked for."""

import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from rollout_studio.core.before import installation
from rollout_studio.core.before.checks.computing import compiler
from rollout_studio.core.config import config_from_flat
from rollout_studio.core.train import compiling, session
from rollout_studio.core.train.interrupt import Interrupt
from rollout_studio.core.train.loop import train
from rollout_studio.core.train.outcome import PREEMPTED, Leave, Refused
from tiny_run import ROLLOUT, events, losses, without_drift  # noqa: F401 - a fixture
from torch import nn

ON = {"compile": True, "device": "cpu"}


class Network(nn.Module):
    """Two blocks of a kind between two layers of their own."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2))

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.last(x)


def test_the_blocks_are_compiled_and_the_rest_is_not(monkeypatch):
    network, compiled, config = Network(), [], SimpleNamespace(recompile_limit=8)
    monkeypatch.setitem(sys.modules, "torch._dynamo", SimpleNamespace(config=config))  # its import takes seconds
    monkeypatch.setattr(nn.Module, "compile", lambda self, backend: compiled.append((self, backend)))
    assert compiling.compile_blocks(network) == 2
    assert compiled == [(block, "inductor") for block in network.blocks]
    assert config.recompile_limit == compiling.VARIANTS
    compiled.clear()
    alone = nn.Sequential(nn.Linear(2, 2))
    assert compiling.compile_blocks(alone) == 1 and compiled == [(alone, "inductor")]


def test_a_network_that_names_its_repeated_modules_is_taken_at_its_word_and_one_without_blocks_as_a_whole():
    network = Network()
    assert compiling.repeated_blocks(network) == list(network.blocks)
    network._repeated_blocks = ["Tanh"]
    assert compiling.repeated_blocks(network) == [block[1] for block in network.blocks]
    assert compiling.repeated_blocks(nn.Sequential(nn.Linear(2, 2))) == []


@pytest.mark.parametrize(("device", "platform", "found", "words"), [
    ("cpu", "linux", {"g++"}, None), ("cpu", "linux", set(), "apt install g++"), ("cpu", "win32", {"g++"}, "Visual Studio"),
    ("cpu", "win32", {"cl"}, None), ("cpu", "darwin", set(), "xcode-select"), ("mps", "darwin", {"clang++"}, "compile = false"),
    ("cuda", "linux", {"gcc", "triton"}, None), ("cuda", "linux", {"gcc"}, "pip install triton,"), ("cuda", "linux", {"triton"}, "g++"),
    ("cuda", "win32", {"cl"}, "triton-windows"),
])  # fmt: skip
def test_where_nothing_compiles_it_is_refused_with_what_to_install(monkeypatch, device, platform, found, words):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(installation.shutil, "which", lambda name: name if name in found else None)
    monkeypatch.setattr(installation, "installed", lambda package: package in found)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    wrong = installation.why_not_compile(device)
    assert (
        wrong is None if words is None else words in " ".join(wrong).replace("`", "").replace("triton, or", "triton,")
    )


def test_a_compiler_of_ones_own_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler" in installation.why_not_compile("cpu")[0]
    situation = type("Situation", (), {"config": config_from_flat(ON)})
    assert [(each.where, each.level) for each in compiler(situation)] == [("compile", "error")]
    assert not list(compiler(type("Situation", (), {"config": config_from_flat({"device": "cpu"})})))


def test_a_session_without_a_compiler_is_refused_before_anything_is_compiled(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    model = SimpleNamespace(device=torch.device("cpu"))
    with pytest.raises(Refused, match="no-such-compiler") as refused:
        session._compile(model, config_from_flat(ON), None, None, None)
    assert "compile = false" in refused.value.remedy


@pytest.mark.parametrize("what", ["torch's own error", "any other error"])
def test_a_signal_that_ends_the_compiler_too_leaves_as_asked_and_without_one_it_is_refused(monkeypatch, what):
    """Ctrl+C, and a signal to the group, reach the compiler's processes as well: their end is then no fault of the network."""

    class Broke(Exception):
        pass

    monkeypatch.setitem(
        sys.modules, "torch._dynamo.exc", SimpleNamespace(TorchDynamoException=Broke)
    )  # quicker than torch's
    monkeypatch.setattr(compiling, "compile_blocks", lambda network: 1)
    signals = Interrupt()

    def denoise(*_):
        raise (Broke if what == "torch's own error" else RuntimeError)("the compiler ended with -15")

    def progress(phase, done, total):
        if signals.is_requested:
            raise Leave(PREEMPTED, "SIGTERM")

    model = SimpleNamespace(
        device=torch.device("cpu"), denoiser=None, noise_path=SimpleNamespace(t_max=1.0), denoise=denoise
    )
    batch = SimpleNamespace(latents=torch.zeros(2, 3, 4, 5), conditioning=None)

    def compile_it():
        compiling.compile_network(model, batch, rolls_out=False, autocast=nullcontext, progress=progress)

    with pytest.raises(Refused if what == "torch's own error" else RuntimeError, match="ended with -15"):
        compile_it()

    def denoise_while_a_signal_comes(*_):
        signals.is_requested = True
        denoise()

    model.denoise = denoise_while_a_signal_comes
    with pytest.raises(Leave) as left:
        compile_it()
    assert left.value.code == PREEMPTED


@pytest.mark.slow  # seen: 27 s
@pytest.mark.parametrize("more", [{}, {"gradient_checkpointing": True}], ids=str)
def test_a_compiled_run_tells_so_and_trains_as_the_uncompiled_one(tiny_run, without_drift, monkeypatch, more):  # noqa: F811
    """With torch's tracing, and its plain operations for generated code: to the bit."""
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    plain = tiny_run("sd3", "plain", device="cpu", train_batch_size=4, **ROLLOUT, **more)
    compiled = tiny_run("sd3", "compiled", train_batch_size=4, **ROLLOUT, **ON, **more)
    assert train(plain) == train(compiled) == 0
    phases = [(event["done"], event["total"]) for event in events(compiled, "phase") if event["name"] == "compile"]
    assert phases[0] == (0, 5) and phases[-1] == (5, 5) and not [each for each in events(plain, "phase") if each["name"] == "compile"]  # fmt: skip
    assert losses(compiled) == losses(plain)
    assert [event["network_calls"] for event in events(compiled, "step")] == [event["network_calls"] for event in events(plain, "step")]  # fmt: skip


@pytest.mark.slow  # minutes: torch generates and compiles code
@pytest.mark.timeout(1800)
def test_generated_code_trains_as_the_plain_operations_do(tiny_run, without_drift):  # noqa: F811
    if installation.why_not_compile("cpu") is not None:
        pytest.skip("no compiler here")
    plain, compiled = (tiny_run("sd3", name, train_batch_size=2, **ROLLOUT, **more) for name, more in (("plain", {"device": "cpu"}), ("compiled", ON)))  # fmt: skip
    assert train(plain) == train(compiled) == 0
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-4)
