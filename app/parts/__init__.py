"""What the tabs share: components, style, words, the watch over the runs folder."""
