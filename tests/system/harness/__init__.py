"""Real machines for the scenarios: images, boots, a network, and the runner that goes through the scenarios."""
