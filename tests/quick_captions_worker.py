"""The worker of automatic captions with a model that says how bright a picture is, in place of one that needs seconds to open.

After its second picture it waits until there is a file `go` in the model's folder: what a test does meanwhile does not depend on the machine's speed.
"""

import sys
import time
import types

from rollout_studio.core.captioning import worker, writing


def quick(found, settings):
    shown = []

    def describe(pictures):
        shown.extend(pictures)
        while len(shown) > 2 and not (found.folder / "go").exists():
            time.sleep(0.02)
        return [f"a picture of brightness {each.convert('L').getpixel((0, 0))}" for each in pictures]

    return types.SimpleNamespace(device="cpu", describe=describe)


if __name__ == "__main__":
    writing.open_describer = quick
    sys.exit(worker.main(sys.argv[1:]))
