"""Aspect buckets: a few picture shapes of about `resolution` squared pixels, and which one suits a picture best."""

import math

Size = tuple[int, int]
"""(width, height) in pixels."""

MULTIPLE = 16
"""Every side of a picture that is trained on is a multiple of this: a latent pixel is 8 pixels in most autoencoders,
and transformers join 2 x 2 of them. Smaller autoencoders divide it, so one rule serves every model."""


def effective_step(resolution: int, bucket_step: int) -> int:
    """The distance in pixels between bucket sides: `bucket_step`, but at most a quarter of the resolution (so that
    small resolutions have shapes to choose from at all), rounded down to a multiple of 16, and at least 16."""
    return max(MULTIPLE, min(bucket_step, resolution // 4) // MULTIPLE * MULTIPLE)


def bucket_sizes(resolution: int, bucket_step: int) -> tuple[Size, ...]:
    """Every bucket, from portrait to landscape, the square of `resolution` among them.

    Sides are multiples of the effective step between half and twice the resolution; the area is as near below
    `resolution` squared as the step allows, so that no bucket needs more memory than the square.
    """
    if resolution < MULTIPLE or resolution % MULTIPLE:
        raise ValueError(f"resolution = {resolution}: must be a multiple of {MULTIPLE} px; {_nearest(resolution)}.")
    step = effective_step(resolution, bucket_step)
    sizes = {(resolution, resolution)}
    for side in range(math.ceil(resolution / 2 / step) * step, 2 * resolution + 1, step):
        other = resolution**2 // side // step * step
        if other >= step:
            sizes |= {(side, other), (other, side)}
    return tuple(sorted(sizes, key=lambda size: (size[0] / size[1], size[0])))


def _nearest(resolution: int) -> str:
    below = max(MULTIPLE, resolution // MULTIPLE * MULTIPLE)
    return f"the nearest are {below} and {below + MULTIPLE}"


def choose(width: int, height: int, sizes: tuple[Size, ...]) -> Size:
    """The bucket whose aspect ratio is nearest (by factor) to the picture's; of two, the larger."""
    aspect = math.log(width / height)
    return min(sizes, key=lambda size: (round(abs(math.log(size[0] / size[1]) - aspect), 9), -size[0] * size[1], size))
