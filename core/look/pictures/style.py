"""What the pictures of drift share: one light card, its colours. They read the same on a light and on a dark page.

Colours are Okabe and Ito's (distinguishable with every kind of colour blindness); tuned and base also differ by line.
"""

CARD, INK, MUTED, LINE = "#fbfbf9", "#1d2129", "#5a6270", "#d5d9df"
TRUE_COLOUR, OWN_COLOUR = "#00765a", "#b84a00"
COLOURS = {"tuned": "#0072b2", "base": "#b37400"}
# for comparisons of more than base and tuned
MORE_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#5a6270",
)
