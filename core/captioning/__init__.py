"""Captions for a folder of pictures, written by a model that looks at them. Nothing here runs until a person asks.

settings   what may be set, declared once                        (no torch)
models     which models there are, where they are, what is refused   (no torch)
folder     which pictures get a caption, and how it is written       (no torch)
job        a process of its own, as the page sees it                 (no torch)
writing    the work itself: pictures in, caption files out
describers, tagger   the models
worker     the process
"""
