"""Random numbers depend on where they are used and on nothing else."""

import pytest
import torch
from rollout_studio.core.randomness import generator, kept_random_state, row_noise, seeded, stream_seed


def draw(*where):
    return torch.rand(5, generator=generator(*where)).tolist()


def test_a_stream_is_named_by_seed_step_name_and_index():
    names = [
        (1, 2, "mask", 0),
        (2, 2, "mask", 0),
        (1, 3, "mask", 0),
        (1, 2, "k", 0),
        (1, 2, "mask", 1),
        (12, 2, "mask", 0),
        (1, 22, "mask", 0),
    ]
    assert len({tuple(draw(*name)) for name in names}) == len(names)
    assert draw(*names[0]) == draw(*names[0])


def test_the_seed_of_a_stream_is_the_same_on_every_machine_and_python():
    """blake2b("42/7/noise/0"), first 8 bytes, halved: `hash()` would differ between processes. A change breaks exact resume."""
    assert stream_seed(42, 7, "noise") == 7624893914430100069
    assert 0 <= stream_seed(2**53 - 1, 10**7, "caption_dropout", 10**9) < 2**63


def test_a_stream_that_is_not_declared_is_refused():
    with pytest.raises(ValueError, match="'masks'.*must be one of"):
        generator(0, 0, "masks")


def test_the_noise_of_a_row_follows_its_global_number_however_the_batch_is_split():
    whole = row_noise((4, 3, 4, 5), seed=1, step=2)
    split = [row_noise((count, 3, 4, 5), seed=1, step=2, first_row=first) for first, count in ((0, 1), (1, 2), (3, 1))]
    assert torch.equal(whole, torch.cat(split)) and whole.dtype == torch.float32
    assert abs(whole.mean()) < 0.2 and 0.8 < whole.std() < 1.2
    assert row_noise((0, 3, 4, 5), seed=1, step=2).shape == (0, 3, 4, 5)


def test_the_global_random_state_is_kept_even_when_the_block_fails():
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), kept_random_state():
        torch.rand(7)
        raise RuntimeError
    assert torch.equal(torch.get_rng_state(), before)


def test_a_seeded_block_repeats_and_leaves_no_trace():
    before, values = torch.get_rng_state(), []
    for _ in range(2):
        with seeded(5):
            values.append(torch.rand(3))
    assert torch.equal(*values) and torch.equal(torch.get_rng_state(), before)
