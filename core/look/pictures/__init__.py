"""Pictures of a drift report: filmstrip, curves, spectrum. No torch."""
