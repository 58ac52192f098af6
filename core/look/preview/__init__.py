"""Drift on demand: pictures, curves and numbers for one picture and any weights. And pictures drawn for a prompt
(`core/look/drawing.py`), by the same worker with the same model and weights.

`request.py`: how a request reads (no torch). `show.py`: measures and draws it. `answer.py`: answers it with the weights that it
names, in the worker or in a running run. `worker.py`: the process, started by the page.
"""
