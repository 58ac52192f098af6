"""What the pictures of drift share: one light card, its colours. They read the same on a light and on a dark page.

Colours are Okabe and Ito's (distinguishable with every kind of colour blindness); tuned and base also differ by line.
"""

CARD, INK, MUTED, LINE = "#fbfbf9", "#1d2129", "#5a6270", "#d5d9df"
TRUE_COLOUR, OWN_COLOUR = "#00765a", "#b84a00"
COLOURS = {"tuned": "#0072b2", "base": "#8a6d00"}
# for comparisons of more than base and tuned
MORE_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#5a6270",
)

HEAT = "inferno"  # dark = equal, bright = different; even in lightness
HEAT_FULL = 0.5
"""The difference, as a share of full brightness, that has the brightest colour: the same in every picture, so that any two can be compared."""
HEAT_TICKS = (0.0, 0.02, 0.125, 0.5)
"""Where the colour scale is labelled. Colours follow the square root, so that these lie at 0, 1/5, 1/2 and all of its length."""
HEAT_SCALE = "the same colours in every picture: black is equal, full colour a difference of 50 % of full brightness (square root)"
